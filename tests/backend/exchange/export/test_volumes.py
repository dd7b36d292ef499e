"""Volumes come back in the grid of their source, whatever its orientation."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import ConfigError
from backend.exchange.export.cases import Scan
from backend.exchange.export.files import Files
from backend.exchange.export.formats.label_volume import put_together, write_nifti
from backend.exchange.export.masks import ANNOTATORS, Drawn
from backend.exchange.pictures import Writer
from backend.imaging import digests
from backend.imaging.planes import Plane
from backend.imaging.sources import Reading, contents
from backend.rounds.services import Services
from tests.backend.exchange.export import nnunet_rules
from tests.backend.exchange.export.exported import (
    ORIENTATIONS,
    TWO,
    Array,
    Imported,
    a_volume,
    affine_of,
    an_import,
    export,
    files_of,
    regions,
    save_manifest,
)
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.imaging.shown import shown_mask
from tests.backend.imaging.test_planes import planes
from tests.backend.imaging.volume_files import save_dicom, slice_at

UNLABELLED = 3
SHAPE = (7, 9, 5)


def read(path: Path) -> tuple[Array, Array]:
    """Return the values and the affine of a NIfTI file, as nibabel reads them."""
    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def drawn(index: int, *masks: Array) -> Drawn:
    scan = Scan(index + 1, "", "", "", 1, "v", index)
    height, width = masks[0].shape
    return Drawn(scan, (height, width), ANNOTATORS, iter(masks))


@pytest.mark.seconds
@settings(max_examples=60)
@given(planes(longest_stretch=9), st.sampled_from(ORIENTATIONS), st.integers(0, 99))
def test_a_label_volume_is_drawn_shown_and_read_back_voxel_by_voxel(
    tmp_path_factory: pytest.TempPathFactory, plane: Plane, orientation: Any, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    axes, signs = orientation
    affine = affine_of(axes, signs, chance.uniform(0.5, 8, 3).tolist())
    volume = a_volume(plane, 4, affine, Path("/nowhere/v.nii.gz"))
    truth = chance.integers(0, 3, volume.shape).astype(np.uint8)
    labelled = np.flatnonzero(chance.random(4) < 0.6).tolist()
    slices = [
        drawn(i, *(shown_mask(plane, plane.cut(truth, i) == number) for number in (1, 2)))
        for i in labelled
    ]
    folder = tmp_path_factory.mktemp("out")
    grid = put_together(volume, slices, 2, UNLABELLED)
    write_nifti("labels.nii.gz", grid, volume, Files(folder))
    values, found = read(folder / "labels.nii.gz")
    expected = np.full(volume.shape, UNLABELLED)
    for i in labelled:
        plane.cut(expected, i)[...] = plane.cut(truth, i)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(found, affine, rtol=1e-6)


# -- a project of volumes -------------------------------------------------------------------------


class Ward:
    """A project with two imported volumes, each turned and stretched in its own way."""

    def __init__(
        self, services: Services, fake: FakeLabelStudio, number: int, folder: Path
    ) -> None:
        self.services, self.fake, self.number = services, fake, number
        self.out, self.imported, self.sources = folder / "out", folder / "in", folder / "sources"
        fake.projects[number].label_config = TWO
        chance = np.random.default_rng(0)
        oblique = affine_of((2, 0, 1), (-1, 1, 1), (1.5, 3.0, 0.7))
        oblique[:3, :3] = _turned(0.2) @ oblique[:3, :3]
        self.volumes: list[Imported] = [
            an_import(
                fake,
                number,
                self.sources,
                chance.integers(0, 900, SHAPE).astype(np.int16),
                chance.integers(0, 3, SHAPE).astype(np.uint8),
                affine=affine,
                plane=plane,
                name=name,
            )
            for name, affine, plane in (
                ("a", affine_of((0, 1, 2), (-1, -1, 1), (0.9, 0.9, 8)), Plane(
                    2, True, False, False, (7, 9), (9, 7))),
                ("b", oblique, Plane(0, False, True, True, (9, 5), (9, 20))),
            )
        ]  # fmt: skip
        self.save()

    def save(self) -> None:
        save_manifest(self.number, self.imported, *(each.volume for each in self.volumes))

    def draw(self, volume: int, *indices: int) -> None:
        chosen = self.volumes[volume]
        for index in indices or chosen.tasks:
            self.fake.annotate(chosen.tasks[index], regions(*chosen.masks(index)))

    def export(self, to: str = "nnunet", **choice: Any) -> Any:
        return export(self.services, self.number, self.out, to, imported=self.imported, **choice)


def _turned(angle: float) -> Array:
    sin, cos = np.sin(angle), np.cos(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


@pytest.fixture
def ward(services: Services, fake: FakeLabelStudio, project_id: int, tmp_path: Path) -> Ward:
    return Ward(services, fake, project_id, tmp_path)


def test_whole_volumes_come_back_as_they_were_drawn(ward: Ward) -> None:
    ward.draw(0)
    ward.draw(1)
    report = ward.export("nifti")
    assert (report.cases, report.scans, report.problems) == (2, 5 + 7, [])
    for each in ward.volumes:
        values, affine = read(ward.out / f"{each.volume.name}.nii.gz")
        np.testing.assert_array_equal(values, each.labels)
        np.testing.assert_array_equal(affine, read(ward.sources / each.volume.source)[1])
    assert json.loads((ward.out / "labels.json").read_text()) == {
        "background": 0, "Lung": 1, "Heart": 2
    }  # fmt: skip


@pytest.mark.parametrize(("to", "name"), [("nifti", "a"), ("nnunet", "labelsTr/a")])
def test_labels_hold_no_text_of_the_header_of_their_source(ward: Ward, to: str, name: str) -> None:
    path = ward.sources / "a.nii.gz"
    values, affine = read(path)
    image = nibabel.nifti1.Nifti1Image(values, affine)  # type: ignore[no-untyped-call]
    for field in ("data_type", "db_name", "descrip", "aux_file", "intent_name"):
        image.header[field] = b"Doe^Jane"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    nibabel.save(image, path)
    first = ward.volumes[0]
    first.volume = first.volume.model_copy(update={"source_hash": digests.of_file(path)})
    ward.save()
    ward.draw(0)
    ward.export(to)
    assert b"Doe^Jane" in gzip.decompress(path.read_bytes())
    assert b"Doe^Jane" not in gzip.decompress((ward.out / f"{name}.nii.gz").read_bytes())


def test_nifti_leaves_unlabelled_slices_empty_and_the_index_names_the_labelled(ward: Ward) -> None:
    ward.draw(0, 1, 3)
    ward.export("nifti")
    values, _ = read(ward.out / "a.nii.gz")
    expected = np.zeros(SHAPE)
    expected[..., [1, 3]] = ward.volumes[0].labels[..., [1, 3]]
    np.testing.assert_array_equal(values, expected)
    rows = (ward.out / "index.csv").read_text().splitlines()[1:]
    assert [row.split(",")[4] for row in rows] == ["1", "3"]
    assert not (ward.out / "b.nii.gz").exists()


def test_a_dataset_of_nnunet_has_sources_labels_and_ignored_slices(ward: Ward) -> None:
    ward.draw(0, 0, 2)
    ward.fake.annotate(ward.volumes[0].tasks[4])  # nothing to see on it
    ward.draw(1)
    report = ward.export()
    said = nnunet_rules.check(ward.out)
    assert said["labels"] == {"background": 0, "Lung": 1, "Heart": 2, "ignore": 3}
    values, _ = read(ward.out / "labelsTr" / "a.nii.gz")
    assert (values[..., [1, 3]] == 3).all(), "not labelled"
    assert (values[..., 4] == 0).all(), "submitted without a region"
    np.testing.assert_array_equal(values[..., [0, 2]], ward.volumes[0].labels[..., [0, 2]])
    image, _ = read(ward.out / "imagesTr" / "b_0000.nii.gz")
    np.testing.assert_array_equal(image, read(ward.sources / "b.nii.gz")[0])
    assert report.hints == ["No scans are held out yet, so nnU-Net makes a split of its own."]


def test_without_unlabelled_slices_nothing_is_ignored(ward: Ward) -> None:
    ward.draw(1)
    ward.export()
    assert "ignore" not in nnunet_rules.check(ward.out)["labels"]


def test_the_split_is_the_projects_own_by_whole_volumes(ward: Ward) -> None:
    ward.draw(0)
    ward.draw(1)
    store = ward.services.store
    tasks = [task for each in ward.volumes for task in each.tasks.values()]
    store.scans.save(ward.number, [{"id": task, "url": ""} for task in tasks])
    store.labels.save_splits(ward.number, {ward.volumes[1].tasks[3]: True})
    ward.export()
    nnunet_rules.check(ward.out)
    [fold] = json.loads((ward.out / "splits_final.json").read_text())
    assert fold == {"train": ["a"], "val": ["b"]}
    for task in ward.volumes[1].tasks.values():
        ward.fake.delete_task(task)
    ward.export()
    assert not (ward.out / "splits_final.json").exists(), "no volume is held out any more"


def test_a_source_of_four_dimensions_gives_its_imported_frame(ward: Ward) -> None:
    path = ward.sources / "a.nii.gz"
    values, affine = read(path)
    film = np.stack([values * 0, values], axis=-1)
    nibabel.save(nibabel.Nifti1Image(film, affine), path)  # type: ignore[no-untyped-call]
    first = ward.volumes[0]
    first.volume = first.volume.model_copy(
        update={"frame": 1, "source_hash": digests.of_file(path)}
    )
    ward.save()
    ward.draw(0)
    ward.export()
    nnunet_rules.check(ward.out)
    np.testing.assert_array_equal(read(ward.out / "imagesTr" / "a_0000.nii.gz")[0], values)


def test_overlapping_classes_are_counted_and_the_last_one_wins(ward: Ward) -> None:
    first = ward.volumes[0]
    mask = np.ones(first.volume.plane.shown_shape, bool)
    ward.fake.annotate(first.tasks[0], regions(mask, mask))
    report = ward.export("nifti")
    assert (read(ward.out / "a.nii.gz")[0][..., 0] == 2).all()
    assert report.overlaps == 1
    assert "the class that stands last in the labelling interface" in report.hints[0]


# -- what can be wrong ----------------------------------------------------------------------------


def test_deleted_tasks_count_as_unlabelled_and_are_named(ward: Ward) -> None:
    ward.draw(0)
    ward.fake.delete_task(ward.volumes[0].tasks[2])
    report = ward.export()
    assert (read(ward.out / "labelsTr" / "a.nii.gz")[0][..., 2] == 3).all()
    assert report.problems == [
        "volume 'a': 1 of its 5 slices have no task any more; they count as unlabelled"
    ]


def test_a_volume_without_tasks_is_named(ward: Ward) -> None:
    ward.draw(0)
    for task in ward.volumes[1].tasks.values():
        ward.fake.delete_task(task)
    report = ward.export()
    assert report.cases == 1
    assert report.problems == ["volume 'b': none of its slices has a task any more; it is left out"]


def test_a_second_task_of_a_slice_doubles_nothing(ward: Ward) -> None:
    ward.draw(0)
    first = ward.volumes[0]
    again = ward.fake.add_task(ward.number, None, volume="a", slice=1)
    report = ward.export()
    np.testing.assert_array_equal(read(ward.out / "labelsTr" / "a.nii.gz")[0], first.labels)
    assert "1 of its slices have a second task" in report.problems[0]
    ward.fake.annotate(again)
    ward.export()
    assert not read(ward.out / "labelsTr" / "a.nii.gz")[0][..., 1].any(), "drawn later"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"volume": "c", "slice": 1}, "its volume 'c' is not in the manifest"),
        ({"volume": "a", "slice": 77}, "the manifest has no slice 77 of volume 'a'"),
        ({}, "it is no slice of a volume"),
    ],
)
def test_tasks_that_fit_into_no_volume_are_named(
    ward: Ward, data: dict[str, Any], problem: str
) -> None:
    ward.draw(0)
    ward.fake.add_task(ward.number, None, **data)
    [found] = ward.export().problems
    assert problem in found


def test_a_mask_that_does_not_fit_its_slice_is_left_out(ward: Ward) -> None:
    ward.draw(0, 1)
    ward.fake.annotate(ward.volumes[0].tasks[0], regions(*[np.ones((4, 4), bool)] * 2))
    [problem] = ward.export("nifti").problems
    assert "drawn on a picture of 4 x 4 pixels, but the picture has 9 x 7" in problem


def test_a_missing_or_changed_source_is_named_and_the_others_go_on(ward: Ward) -> None:
    ward.draw(0)
    ward.draw(1)
    shutil.move(ward.sources / "a.nii.gz", ward.sources / "moved.nii.gz")
    report = ward.export()
    assert report.cases == 1
    assert "a is left out: its source is not at" in report.problems[0]
    shutil.copy(ward.sources / "b.nii.gz", ward.sources / "a.nii.gz")
    assert "has changed since it was imported" in ward.export().problems[0]
    shutil.move(ward.sources / "moved.nii.gz", ward.sources / "a.nii.gz")
    assert ward.export().cases == 2


def test_labels_need_no_source(ward: Ward) -> None:
    ward.draw(1)
    shutil.rmtree(ward.sources)
    ward.export("nifti")
    values, affine = read(ward.out / "b.nii.gz")
    np.testing.assert_array_equal(values, ward.volumes[1].labels)
    np.testing.assert_allclose(affine, np.array(ward.volumes[1].volume.affine), rtol=1e-6)


def test_a_missing_edited_or_foreign_manifest_ends_the_export(ward: Ward) -> None:
    ward.draw(0)
    path = ward.imported / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"index": 1', '"index": 2'))
    with pytest.raises(ConfigError, match="was edited"):
        ward.export()
    path.unlink()
    with pytest.raises(ConfigError, match=r"There is no manifest\.json"):
        ward.export()
    save_manifest(99, ward.imported)
    with pytest.raises(ConfigError, match="is of project 99"):
        ward.export()


def test_a_class_may_not_have_a_name_that_nnunet_keeps_for_itself(ward: Ward) -> None:
    ward.fake.projects[ward.number].label_config = TWO.replace("Heart", "ignore")
    with pytest.raises(ConfigError, match="'ignore', which nnU-Net keeps for itself"):
        ward.export()


def test_volumes_are_exported_as_single_slices_too(ward: Ward) -> None:
    ward.draw(0, 1)
    ward.export("png")
    assert sum("masks/Lung/" in name for name in files_of(ward.out)) == 1


# -- sources of other kinds -----------------------------------------------------------------------


def test_imported_pictures_are_a_dataset_of_two_dimensions(ward: Ward) -> None:
    kinds = [each.volume.model_copy(update={"kind": "picture"}) for each in ward.volumes]
    save_manifest(ward.number, ward.imported, *kinds)
    ward.draw(0, 1)
    assert ward.export().cases == 1
    assert nnunet_rules.check(ward.out)["file_ending"] == ".png"


def test_a_dicom_series_becomes_an_image_with_its_own_values(
    services: Services, fake: FakeLabelStudio, project_id: int, tmp_path: Path
) -> None:
    chance = np.random.default_rng(1)
    grid = chance.integers(0, 3000, (6, 8, 10)).astype(np.uint16)
    turned = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
    for number in (0, 1, 2, 4, 5):  # one slice is missing
        normal = np.cross(turned[:3], turned[3:])
        made = slice_at(
            grid[number],
            number,
            ImageOrientationPatient=turned,
            ImagePositionPatient=[*(5.0 + 2.5 * number * normal)],
            PixelSpacing=[0.5, 0.5],
        )
        save_dicom(tmp_path / "ct" / f"{(7 * number) % 11}.dcm", made)
    save_dicom(tmp_path / "ct" / "other.dcm", slice_at(grid[0], 9, SeriesInstanceUID="1.2.9"))
    folder = tmp_path / "imported"
    opened = [s.open() for s in contents(tmp_path, Reading(max_pixels=1_000)).sources]
    volume = Writer(tmp_path, folder, "percentile", "all").write(
        max(opened, key=lambda one: len(one.present)), "v1", None
    )
    fake.projects[project_id].label_config = TWO
    truth = chance.integers(0, 3, volume.shape).astype(np.uint8)
    drawn_on = Imported(volume, truth, {})
    for each in volume.slices:
        task = fake.add_task(project_id, None, volume="v1", slice=each.index)
        fake.annotate(task, regions(*drawn_on.masks(each.index)))
    save_manifest(project_id, folder, volume)
    report = export(services, project_id, tmp_path / "out", "nnunet", imported=folder)
    assert report.problems == []
    nnunet_rules.check(tmp_path / "out")
    values, affine = read(tmp_path / "out" / "imagesTr" / "v1_0000.nii.gz")
    np.testing.assert_allclose(affine, np.array(volume.affine), atol=1e-5)
    labels, _ = read(tmp_path / "out" / "labelsTr" / "v1.nii.gz")
    for number in (0, 1, 2, 4, 5):
        np.testing.assert_array_equal(values[..., number], grid[number].T.astype(int) - 1024)
        np.testing.assert_array_equal(labels[..., number], truth[..., number])
    assert (labels[..., 3] == 3).all(), "nobody saw the missing slice"
    for path in (tmp_path / "ct").glob("[0-9]*.dcm"):
        path.unlink()
        break
    (tmp_path / "out2").mkdir()
    again = export(services, project_id, tmp_path / "out2", "nnunet", imported=folder)
    assert "has changed since it was imported" in again.problems[0]
