from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from backend.commands import import_command, importing
from backend.errors import ConfigError, StorageError
from backend.label_studio import labels
from backend.label_studio.client import LabelStudio
from backend.label_studio.labels import interface
from backend.settings import Settings
from tests.backend.exchange.filling import FillableLabelStudio
from tests.backend.imaging.volume_files import save_nifti

OPTIONS: dict[str, Any] = {
    "project": None,
    "title": "",
    "labels": "",
    "window": "percentile",
    "slices": "all",
    "slab": 1,
    "frame": None,
    "keep": "",
    "keep_names": False,
    "out": None,
    "local_files": "",
}


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> FillableLabelStudio:
    """A Label Studio that the command reaches, whichever client it makes."""
    made = FillableLabelStudio()

    def client(cls: type[Any]) -> Any:
        return lambda settings: cls(settings, made.client())

    monkeypatch.setattr(importing, "LabelStudio", client(LabelStudio))
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    grid = np.random.default_rng(0).integers(0, 900, (5, 4, 3)).astype(np.int16)
    save_nifti(folder / "heart.nii", grid, np.eye(4))
    return folder


def run(settings: Settings, source: Path, **asked: Any) -> bool:
    return importing.run(settings, source, {**OPTIONS, **asked})


def test_a_project_is_made_with_its_classes_and_the_viewer(
    studio: FillableLabelStudio,
    settings: Settings,
    source: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(settings, source, title="Hearts", labels="RV, LV")
    [project] = studio.projects.values()
    assert project.title == "Hearts"
    assert project.label_config == interface.of_slices(["RV", "LV"], viewer=True)
    assert len(project.tasks) == 3
    said = capsys.readouterr().out
    assert "Project 1 (Hearts) is made. After an interruption use --project 1." in said
    assert "1 volumes are in project 1, with 3 new tasks; the manifest is in" in said
    assert """connect 1 --extra-params '{"group_by": "volume", "slice_by": "slice"}'""" in said


def test_pictures_by_themselves_need_no_viewer(
    studio: FillableLabelStudio, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "a.png")
    run(settings, folder, title="Lungs", labels="Lung")
    assert not interface.has_viewer(studio.projects[1].label_config)


def test_a_second_project_of_the_same_title_is_not_made(
    studio: FillableLabelStudio, settings: Settings, source: Path
) -> None:
    run(settings, source, title="Hearts", labels="RV")
    with pytest.raises(ConfigError, match=r"project 1 with the title Hearts.*--project 1"):
        run(settings, source, title="Hearts", labels="RV")
    assert len(studio.projects) == 1


def test_a_project_that_is_there_is_checked_and_its_viewer_is_proposed(
    studio: FillableLabelStudio,
    settings: Settings,
    source: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    studio.add_project()
    run(settings, source, project=1)
    assert interface.VIEWER in capsys.readouterr().out
    studio.add_project(studio.projects[1].label_config.replace("$image", "$scan"))
    with pytest.raises(ConfigError, match=r"shows \$scan, but the tasks hold \$image"):
        run(settings, source, project=2)
    assert not studio.projects[2].tasks


def test_a_project_of_slabs_is_made_with_pages_to_draw_on(
    studio: FillableLabelStudio, settings: Settings, source: Path
) -> None:
    assert run(settings, source, title="Hearts", labels="RV, LV", slab=3)
    [project] = studio.projects.values()
    config = labels.parse(project.label_config)
    assert (config.paged, config.image_key, config.labels) == (True, "slices", ("RV", "LV"))
    [task] = project.tasks.values()
    assert len(task["data"]["slices"]) == 3


def test_a_project_of_slices_takes_no_slabs_and_one_of_slabs_no_slices(
    studio: FillableLabelStudio, settings: Settings, source: Path
) -> None:
    studio.add_project()
    with pytest.raises(ConfigError, match=r"shows \$image, but the tasks hold pages in \$slices"):
        run(settings, source, project=1, slab=3)
    studio.add_project(interface.of_slabs(["RV"]))
    with pytest.raises(ConfigError, match=r"shows pages of \$slices, but the tasks hold \$image"):
        run(settings, source, project=2)
    assert not studio.projects[1].tasks
    assert not studio.projects[2].tasks


def test_slices_are_grouped_by_volume_where_the_backend_is_connected(
    studio: FillableLabelStudio,
    settings: Settings,
    source: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    studio.add_project()
    entry = studio.connect(1, {"alpha": 0.5}, url=settings.public_url)
    studio.setup = lambda project: "firstlight-01234567"
    secret = {"webhook_secret": SecretStr("a secret of its own")}
    run(settings.model_copy(update=secret), source, project=1)
    assert "The slices of project 1 are grouped by volume now" in capsys.readouterr().out
    given = {"alpha": 0.5, "group_by": "volume", "slice_by": "slice"}
    assert studio.entries[entry["id"]]["extra_params"] == given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"group_by": "patient"}, "grouped by patient, and slice_by is not set. Next: if each of"),
        ({"group_by": "volume", "slice_by": ""}, "grouped by volume, and slice_by is not set."),
        ({"group_by": "case", "slice_by": "z"}, "grouped by case, with z as place."),
    ],
)
def test_a_group_and_a_place_that_were_chosen_are_left_as_they_are(
    studio: FillableLabelStudio,
    settings: Settings,
    source: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, str],
    said: str,
) -> None:
    studio.add_project()
    studio.connect(1, json.dumps(given), url=settings.public_url)
    run(settings, source, project=1)
    assert f"The project's slices are {said}" in capsys.readouterr().out
    assert studio.entries[1]["extra_params"] == json.dumps(given)


@pytest.mark.parametrize(
    ("given", "place", "said"),
    [
        ({"group_by": "volume"}, "slice", "with slice as place."),
        ({"slice_by": "z"}, "z", "with z as place."),
        ({"slice_by": ""}, "", "and slice_by is not set."),
    ],
)
def test_what_is_missing_of_group_and_place_is_set_and_what_was_chosen_stays(
    studio: FillableLabelStudio,
    settings: Settings,
    source: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, str],
    place: str,
    said: str,
) -> None:
    studio.add_project()
    entry = studio.connect(1, given, url=settings.public_url)
    studio.setup = lambda project: "firstlight-01234567"
    secret = {"webhook_secret": SecretStr("a secret of its own")}
    run(settings.model_copy(update=secret), source, project=1)
    assert studio.entries[entry["id"]]["extra_params"] == {"group_by": "volume", "slice_by": place}
    assert f"are grouped by volume now, {said}" in capsys.readouterr().out


def test_no_project_is_made_where_the_key_of_earlier_imports_is_missing(
    studio: FillableLabelStudio, settings: Settings, source: Path, tmp_path: Path
) -> None:
    (settings.data_dir / "pseudonyms.key").touch()
    (tmp_path / "share").mkdir()
    moved = settings.model_copy(update={"imports_dir": tmp_path / "share"})
    with pytest.raises(ConfigError, match=r"has no pseudonyms\.key, but DATA_DIR holds"):
        run(moved, source, title="Hearts", labels="RV, LV")
    assert not studio.projects


def test_what_is_left_out_is_said_and_makes_the_command_fail(
    studio: FillableLabelStudio,
    settings: Settings,
    source: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    studio.add_project()
    (source / "broken.nii").write_bytes(b"nothing")
    (source / "scan.mha").touch()
    assert not run(settings, source, project=1)
    said = capsys.readouterr().err
    assert "Left out: 1 file ending in .mha" in said
    assert "broken.nii cannot be read" in said
    assert len(studio.projects[1].tasks) == 3


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"window": "liver"}, "--window is 'liver', expected lung"),
        ({"slices": "some"}, "--slices is 'some', expected all, tissue or every:N"),
        ({"slices": "every:0"}, "--slices is 'every:0'"),
        ({"slab": 4}, "--slab is 4, expected an odd number from 3 to 15"),
        ({"keep": "PatientAge,Age"}, "--keep names Age, which no DICOM element is called"),
        ({"title": "Hearts"}, "needs the names of its classes. Add for example --labels"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_made(
    studio: FillableLabelStudio, settings: Settings, source: Path, asked: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        run(settings, source, **asked)
    assert not studio.projects


def test_slices_are_not_written_into_the_source(
    studio: FillableLabelStudio, settings: Settings, source: Path
) -> None:
    studio.add_project()
    with pytest.raises(ConfigError, match=r"would be written into .* Name a folder elsewhere"):
        run(settings, source, project=1, out=source / "slices")


@pytest.mark.parametrize("arguments", [[], ["--project", "1", "--new", "Hearts"]])
def test_one_project_must_be_named(source: Path, arguments: list[str]) -> None:
    with pytest.raises(click.UsageError, match="Give --project ID or --new TITLE"):
        import_command.import_.main([str(source), *arguments], standalone_mode=False)


def test_a_folder_of_another_user_is_named_with_a_fix(
    studio: FillableLabelStudio,
    settings: Settings,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    studio.add_project()
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(import_command, "load_settings", lambda: settings)
    monkeypatch.setattr(import_command, "prepare_data_dir", lambda settings: None)
    monkeypatch.setattr(Path, "chmod", refuse)
    arguments = [str(source), "--project", "1", "--local-files", str(root)]
    with pytest.raises(StorageError, match=r"firstlight.* \(Operation not permitted\)\. Let this"):
        import_command.import_.main(arguments, standalone_mode=False)


def test_an_import_that_breaks_off_says_why(
    studio: FillableLabelStudio, settings: Settings, source: Path
) -> None:
    studio.add_project()
    studio.fail("POST", "/import$", httpx.ConnectError, times=9)
    with pytest.raises(Exception, match="did not answer"):
        run(settings, source, project=1)
