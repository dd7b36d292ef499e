from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from backend.errors import ConfigError, LabelStudioError
from backend.exchange import importing
from backend.imaging.manifest import MANIFEST
from backend.imaging.sources import Reading
from tests.backend.exchange.conftest import PROJECT, Site
from tests.backend.exchange.filling import LONGEST_PATH
from tests.backend.imaging.volume_files import save_dicom, save_nifti, save_series, slice_at

AFFINE = np.diag([-1.0, -1.0, 4.0, 1.0])
GRID = np.random.default_rng(0).integers(0, 900, (5, 4, 20)).astype(np.int16)


def hearts(site: Site, number: int = 2) -> None:
    for heart in range(number):
        save_nifti(site.source / f"heart-{heart}.nii.gz", GRID + np.int16(heart), AFFINE)


def test_each_slice_becomes_a_task_with_its_neighbours_beside(site: Site) -> None:
    hearts(site)
    outcome = site.run()
    assert (outcome.volumes, outcome.tasks_made, outcome.problems) == (2, 40, [])
    tasks = site.tasks()
    names = {task["volume"] for task in tasks}
    assert len(names) == 2
    assert all(name.startswith("volume-") for name in names)
    by_slice = {task["slice"]: task for task in tasks if task["volume"] == min(names)}
    assert sorted(by_slice) == list(range(20))
    assert by_slice[10]["slices"] == [by_slice[index]["image"] for index in range(3, 18)]
    assert by_slice[0]["slices"] == [by_slice[index]["image"] for index in range(8)]
    assert {*tasks[0]} == {"image", "volume", "slice", "slices"}


def test_slabs_become_tasks_of_several_pages(site: Site) -> None:
    hearts(site)
    outcome = site.run(slab=7)
    assert (outcome.volumes, outcome.tasks_made, outcome.problems) == (2, 6, [])
    tasks = site.tasks()
    assert {*tasks[0]} == {"volume", "slice", "slices", "pages"}
    name = min(task["volume"] for task in tasks)
    found = [(task["slice"], task["pages"]) for task in tasks if task["volume"] == name]
    expected = [(3, range(7)), (10, range(7, 14)), (17, range(14, 20))]
    assert found == [(middle, [*pages]) for middle, pages in expected]
    volume = site.manifest.volume(name)
    assert volume is not None
    urls = {one.index: one.url for one in volume.slices}
    for task in tasks:
        if task["volume"] == name:
            assert task["slices"] == [urls[index] for index in task["pages"]]


def test_slabs_are_not_made_twice_and_deleted_ones_come_back(site: Site) -> None:
    hearts(site, 1)
    site.run(slab=3, slices="every:6")
    before = site.tasks()
    assert [task["pages"] for task in before] == [[1, 2, 3], [7, 8, 9], [13, 14, 15]]
    assert site.run(slab=3, slices="every:6").tasks_made == 0
    site.studio.delete_task(max(site.studio.projects[PROJECT].tasks))
    outcome = site.run(slab=3, slices="every:6")
    assert (outcome.tasks_made, outcome.tasks_restored) == (1, 1)
    assert sorted(task["pages"] for task in site.tasks()) == [task["pages"] for task in before]


def test_more_slices_make_slabs_beside_those_that_are_there(site: Site) -> None:
    hearts(site, 1)
    site.run(slab=3, slices="every:6")
    site.run(slab=3)
    pages = [index for task in site.tasks() for index in task["pages"]]
    assert sorted(pages) == list(range(20)), "each slice once"


def test_slabs_and_slices_do_not_mix_in_a_project(site: Site) -> None:
    hearts(site, 1)
    site.run(slab=3)
    for slab in (1, 5):
        with pytest.raises(ConfigError, match=f"with --slab 3, not {slab}: slices would be drawn"):
            site.run(slab=slab)


@pytest.mark.parametrize(("before", "asked"), [(3, 5), (5, 3), (3, 1), (1, 3)])
def test_slabs_of_another_size_are_refused_too_when_the_manifest_is_gone(
    site: Site, before: int, asked: int
) -> None:
    hearts(site, 1)
    site.run(slab=before, slices="every:6")
    tasks = site.tasks()
    (site.folder / MANIFEST).unlink()
    said = rf"at most {before} pages?, but --slab is {asked}: .*Import with --slab {before}"
    with pytest.raises(ConfigError, match=said):
        site.run(slab=asked, slices="every:6")
    assert site.tasks() == tasks
    assert not (site.folder / MANIFEST).exists()


@pytest.mark.parametrize("length", [3, 4, 7])
def test_slabs_that_hold_a_whole_short_volume_are_found_again_without_the_manifest(
    site: Site, length: int
) -> None:
    save_nifti(site.source / "a.nii", GRID[:4, :4, :length], AFFINE)
    site.run(slab=7)
    tasks = site.tasks()
    (site.folder / MANIFEST).unlink()
    outcome = site.run(slab=7)
    assert (outcome.volumes, outcome.tasks_made, outcome.problems) == (1, 0, [])
    assert site.tasks() == tasks
    assert site.manifest.slab == 7


def test_a_single_slab_that_is_shorter_than_asked_and_than_its_volume_is_refused(
    site: Site,
) -> None:
    hearts(site, 1)
    site.run(slab=3, slices="every:20")
    [task] = site.tasks()
    (site.folder / MANIFEST).unlink()
    [problem] = site.run(slab=5).problems
    assert "its tasks have at most 3 pages, but --slab is 5" in problem
    assert site.tasks() == [task]
    assert not (site.folder / MANIFEST).exists()


def test_tasks_whose_manifest_is_gone_keep_their_slices(site: Site) -> None:
    hearts(site, 1)
    site.run(slab=3, slices="every:6")
    (site.folder / MANIFEST).unlink()
    site.run(slab=3)
    pages = [index for task in site.tasks() for index in task["pages"]]
    assert sorted(pages) == list(range(20)), "each slice once"
    [volume] = site.manifest.volumes
    assert sorted(volume.tasks) == sorted(tuple(task["pages"]) for task in site.tasks())


def test_slices_whose_manifest_is_gone_stay_tasks(site: Site) -> None:
    hearts(site, 1)
    site.run()
    (site.folder / MANIFEST).unlink()
    assert site.run(slices="every:4").tasks_made == 0
    [volume] = site.manifest.volumes
    assert volume.tasks == [(index,) for index in range(20)]


def test_a_pixel_of_a_task_leads_to_its_voxel(site: Site) -> None:
    hearts(site)
    site.run(window="450/900")
    for task in site.tasks():
        volume = site.manifest.volume(task["volume"])
        assert volume is not None
        [one] = [one for one in volume.slices if one.index == task["slice"]]
        file = site.folder / one.picture
        picture = np.asarray(Image.open(file))
        assert hashlib.sha256(file.read_bytes()).hexdigest() == one.picture_hash
        heart = int(volume.source.removeprefix("heart-")[0])
        grid = np.rint((GRID + heart).clip(0, 900) / 900 * 255)
        np.testing.assert_array_equal(volume.plane.show(volume.plane.cut(grid, one.index)), picture)
        assert one.url == task["image"]
        assert Path(volume.root) == site.source


def test_a_second_import_makes_nothing_twice(site: Site) -> None:
    hearts(site)
    site.run()
    before = site.tasks(), dict(site.studio.uploaded[PROJECT]), site.manifest
    outcome = site.run()
    assert (outcome.volumes, outcome.tasks_made) == (2, 0)
    assert (site.tasks(), site.studio.uploaded[PROJECT], site.manifest) == before


def test_new_files_in_the_source_are_added(site: Site) -> None:
    hearts(site, 1)
    site.run()
    hearts(site, 3)
    outcome = site.run()
    assert (outcome.volumes, outcome.tasks_made) == (3, 40)


@pytest.mark.parametrize("after", range(4))
def test_an_import_that_broke_off_goes_on_and_makes_nothing_twice(
    site: Site, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.exchange.importing._BATCH", 40)
    hearts(site, 4)
    site.studio.fail("POST", "/import$", httpx.ReadTimeout, after=after)
    with pytest.raises(LabelStudioError):
        site.run()
    made = len(site.tasks())
    outcome = site.run()
    assert outcome.tasks_made == 80 - made
    tasks = {(task["volume"], task["slice"]) for task in site.tasks()}
    assert (len(site.tasks()), len(tasks)) == (80, 80)
    names = [Path(path).name[9:] for path in site.studio.uploaded[PROJECT].values()]
    assert len(names) == len(set(names)) == 80


def test_tasks_that_somebody_deleted_come_back_and_are_counted(site: Site) -> None:
    hearts(site)
    site.run()
    for task in list(site.studio.projects[PROJECT].tasks)[:3]:
        site.studio.delete_task(task)
    site.studio.uploaded[PROJECT].pop(min(site.studio.uploaded[PROJECT]))
    outcome = site.run()
    assert (outcome.tasks_made, outcome.tasks_restored) == (3, 3)
    assert len(site.tasks()) == len({task["image"] for task in site.tasks()}) == 40
    assert len(site.studio.uploaded[PROJECT]) == 40, "the file that was gone is there again"


def test_every_nth_slice_is_a_task_and_its_neighbours_are_shown(site: Site) -> None:
    hearts(site, 1)
    site.run(slices="every:10")
    [first, second] = site.tasks()
    assert (first["slice"], second["slice"]) == (4, 14)
    assert len(first["slices"]) == 12
    assert len(second["slices"]) == 13
    [volume] = site.manifest.volumes
    assert [one.index for one in volume.slices if one.is_task] == [4, 14]


def test_more_slices_can_be_chosen_later(site: Site) -> None:
    hearts(site, 1)
    site.run(slices="every:10")
    site.run(slices="every:20")
    assert sorted(task["slice"] for task in site.tasks()) == [4, 9, 14]
    outcome = site.run()
    assert (outcome.tasks_made, outcome.tasks_restored) == (17, 0)


def test_slices_without_tissue_are_left_out(site: Site) -> None:
    grid = np.random.default_rng(0).normal(0, 1, (9, 9, 12))
    grid[2:7, 2:7, 4:8] += 500
    save_nifti(site.source / "a.nii", grid.astype(np.float32), AFFINE)
    site.run(slices="tissue")
    assert sorted(task["slice"] for task in site.tasks()) == [4, 5, 6, 7]


def test_another_window_is_refused_when_slices_are_there(site: Site) -> None:
    hearts(site)
    site.run()
    site.studio.annotate(min(site.studio.projects[PROJECT].tasks))
    before = site.manifest
    with pytest.raises(ConfigError, match=r"with the window percentile, not lung.*by --new\."):
        site.run(window="lung")
    assert site.manifest == before
    assert len(site.tasks()) == 40


@pytest.mark.parametrize("served", [False, True])
def test_another_window_is_refused_too_when_the_manifest_is_gone(
    site: Site, tmp_path: Path, served: bool
) -> None:
    hearts(site)
    root = tmp_path / "served" if served else None
    site.run(local_files=root)
    pictures = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    (site.folder / MANIFEST).unlink()
    outcome = site.run(window="lung", local_files=root)
    assert (outcome.volumes, outcome.tasks_made) == (0, 0)
    assert "in another window than lung, and the manifest of that import is gone" in str(
        outcome.problems
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == pictures


def test_a_manifest_that_is_gone_is_written_again_in_the_same_window(site: Site) -> None:
    hearts(site)
    site.run()
    before = site.manifest
    (site.folder / MANIFEST).unlink()
    outcome = site.run()
    assert (outcome.volumes, outcome.tasks_made, len(site.tasks())) == (2, 0, 40)
    assert site.manifest.volumes == before.volumes
    assert "20 slices of" in outcome.notes[0]
    assert "They keep the pictures that they have." in outcome.notes[0]


def test_a_manifest_that_was_moved_or_edited_is_refused(site: Site, tmp_path: Path) -> None:
    hearts(site)
    site.run()
    path = site.folder / MANIFEST
    text = path.read_text()
    path.write_text(text.replace('"percentile"', '"lung"'))
    with pytest.raises(ConfigError, match="was edited: its checksum is wrong"):
        site.run(window="lung")
    path.write_text(text)
    elsewhere = Site(
        site.settings.model_copy(update={"data_dir": tmp_path / "elsewhere"}),
        site.studio,
        site.source,
    )
    shutil.copytree(site.folder, elsewhere.folder)
    with pytest.raises(ConfigError, match=r"was moved: it was written in .*Move the whole folder"):
        elsewhere.run()
    assert len(site.tasks()) == 40


def test_a_source_that_changed_is_left_as_it_was_imported(site: Site) -> None:
    save_series(site.source, GRID.transpose(2, 1, 0).astype(np.uint16))
    site.run()
    (site.source / "00.dcm").unlink()
    outcome = site.run()
    assert outcome.tasks_made == 0
    assert "has other files than when it was imported" in outcome.problems[0]
    assert len(site.tasks()) == 20


def test_a_volume_that_cannot_be_read_is_named_and_the_others_go_on(site: Site) -> None:
    hearts(site)
    (site.source / "broken.nii").write_bytes(b"nothing")
    outcome = site.run()
    assert (outcome.volumes, outcome.tasks_made) == (2, 40)
    assert "broken.nii cannot be read" in outcome.problems[0]


def test_a_file_that_is_there_twice_is_imported_once(site: Site) -> None:
    hearts(site, 1)
    content = (site.source / "heart-0.nii.gz").read_bytes()
    (site.source / "copy.nii.gz").write_bytes(content)
    outcome = site.run()
    assert outcome.tasks_made == 20
    assert outcome.notes == ["heart-0 is equal to copy; it is imported once."]


def test_task_data_and_names_of_pictures_tell_nothing_of_the_patient(site: Site) -> None:
    grid = GRID.transpose(2, 1, 0).astype(np.uint16)
    save_series(site.source / "Doe Jane", grid, PatientAge="042Y")
    site.run()
    said = str(site.tasks()) + str(site.studio.uploaded)
    for secret in ("Doe", "4711", "042Y", "1.2.4", "1.2.3"):
        assert secret not in said
    site.studio.projects[PROJECT].tasks.clear()
    site.run(reading=Reading(max_pixels=1000, keep=["PatientAge"]))
    assert {task["PatientAge"] for task in site.tasks()} == {"042Y"}


def test_names_are_kept_if_that_is_asked_for(site: Site) -> None:
    hearts(site, 1)
    save_nifti(site.source / "more" / "heart-0.nii.gz", GRID + np.int16(5), AFFINE)
    site.run(keep_names=True)
    names = sorted({task["volume"] for task in site.tasks()})
    assert names[0] == "heart-0"
    assert names[1].startswith("heart-0-")
    assert site.run(keep_names=True).tasks_made == 0
    assert site.run().tasks_made == 0, "an imported volume keeps its name"


def test_long_names_are_cut_and_stay_apart(site: Site) -> None:
    long = "thorax-" * 12
    save_nifti(site.source / f"{long}b.nii.gz", GRID, AFFINE)
    site.run(keep_names=True)
    for number, letter in enumerate("ac", start=1):
        grid = GRID + np.int16(number)
        save_nifti(site.source / f"{long}{letter}.nii.gz", grid, AFFINE)
    outcome = site.run(keep_names=True)
    assert not outcome.problems
    assert outcome.volumes == 3
    names = {task["volume"] for task in site.tasks()}
    assert len(names) == 3
    assert {name[:50] for name in names} == {long[:50]}
    assert site.run(keep_names=True).tasks_made == 0


def test_the_longest_name_of_a_frame_in_the_largest_project_is_short_enough() -> None:
    name = f"{'x' * importing._LONGEST_NAME}-123-0a1b2c"
    path = f"upload/{2**31 - 1}/01234567-{name}_01234.png"
    assert len(path) <= LONGEST_PATH


def test_an_upload_under_another_name_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_LONGEST_NAME", 80)
    save_nifti(site.source / f"{'x' * 90}.nii.gz", GRID, AFFINE)
    with pytest.raises(LabelStudioError, match=r"stored x+-.* under another name.*--keep-names"):
        site.run(keep_names=True)


def test_two_series_and_a_single_image_become_volumes_of_their_own(site: Site) -> None:
    grid = GRID.transpose(2, 1, 0).astype(np.uint16)
    save_series(site.source, grid)
    for number in range(3):
        made = slice_at(
            grid[number], number, SeriesInstanceUID="1.5", SOPInstanceUID=f"1.5.{number}"
        )
        save_dicom(site.source / "b" / f"{number}", made)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(site.source / "c.png")
    site.run()
    assert sorted(volume.shape[2] for volume in site.manifest.volumes) == [1, 3, 20]
    [series] = [volume for volume in site.manifest.volumes if volume.shape[2] == 3]
    assert series.slices[2].sop_instance == "1.5.2"
    assert series.slices[2].file == "b/2"
    assert series.source == "b"


def test_pictures_may_be_served_from_a_folder(site: Site, tmp_path: Path) -> None:
    hearts(site, 1)
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o755)  # whatever the umask
    site.run(local_files=root)
    task = site.tasks()[3]
    assert task["image"].startswith("/data/local-files/?d=firstlight/1/volume-")
    file = root / task["image"].partition("?d=")[2]
    assert file.is_file()
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.parent.stat().st_mode & 0o777 == 0o755
    assert not site.studio.uploaded
    [storage] = site.studio.storages[PROJECT]
    assert storage["path"] == "/served/firstlight/1"
    assert not list(root.rglob("manifest.json")), "the manifest names patients' files"
    with pytest.raises(ConfigError, match="Import with the same --local-files and --out"):
        site.run()


def test_pictures_below_an_open_root_can_be_written_by_nobody_else(
    site: Site, tmp_path: Path
) -> None:
    hearts(site, 1)
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o2777)
    site.run(local_files=root)
    picture = next(root.rglob("*.png"))
    assert picture.stat().st_mode & 0o7777 == 0o644
    folders = [picture.parent, picture.parent.parent, root / "firstlight"]
    assert {folder.stat().st_mode & 0o7777 for folder in folders} == {0o2755}
    assert root.stat().st_mode & 0o7777 == 0o2777


def test_a_picture_that_was_deleted_is_written_again(site: Site, tmp_path: Path) -> None:
    hearts(site, 1)
    root = tmp_path / "root"
    root.mkdir()
    site.run(local_files=root)
    picture = next(root.rglob("*.png"))
    content = picture.read_bytes()
    picture.unlink()
    site.run(local_files=root)
    assert picture.read_bytes() == content


def test_the_folder_of_another_project_is_refused(site: Site) -> None:
    hearts(site, 1)
    site.run()
    moved = site.settings.model_copy(update={"label_studio_url": "http://elsewhere"})
    with pytest.raises(ConfigError, match="holds the import of project 1 at http://label-studio"):
        Site(moved, site.studio, site.source).run()


def test_a_second_import_at_the_same_time_is_refused(site: Site) -> None:
    hearts(site, 1)
    site.folder.mkdir(parents=True)
    with (
        FileLock(site.folder / ".lock"),
        pytest.raises(ConfigError, match="Another import into project 1 runs"),
    ):
        site.run()
