from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from backend.commands.quickstart import images, run
from backend.commands.quickstart.state import Kind, Memory
from backend.errors import ConfigError, LacksVariables, Unauthorized, Unreachable
from backend.label_studio.client import LabelStudio
from backend.settings import Settings
from tests.backend.exchange.filling import FillableLabelStudio
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.imaging.volume_files import save_nifti

US = "http://127.0.0.1:9090"


def plan(folder: Path | None) -> run.Plan:
    return run.Plan(
        folder=folder,
        scans=3,
        seed=0,
        labels=["Lung"],
        label_studio="",
        port=None,
        label_studio_port=None,
        keep=None,
        browser=False,
    )


def test_a_label_studio_that_may_not_call_us_is_said_before_anything_is_made(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    run.require_access(studio, US)
    fake.banned = {"webhooks": (403, "URL resolves to a reserved network address")}
    with pytest.raises(LacksVariables, match="SSRF_PROTECTION_ENABLED=false"):
        run.require_access(studio, US)
    fake.fail("GET", "whoami", 401, detail="Invalid token.")
    with pytest.raises(Unauthorized):
        run.require_access(studio, US)
    fake.fail("GET", "version", httpx.ConnectError)
    with pytest.raises(Unreachable):
        run.require_access(studio, US)
    assert fake.projects == {}


def test_a_folder_gets_one_project_and_a_new_one_after_its_deletion(
    studio: LabelStudio, fake: FakeLabelStudio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "chest" / "images"
    state = tmp_path / "state"
    for path in (folder, state):
        path.mkdir(parents=True)

    def project() -> int:
        return run.project_of(plan(folder), studio, Memory.read(state, ""), state, "images")

    first = project()
    assert fake.projects[first].title == "chest (Firstlight)"
    assert 'value="Lung"' in fake.projects[first].label_config
    assert project() == first
    del fake.projects[first]
    assert project() in fake.projects
    assert "was deleted in Label Studio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        (("images", "volumes"), "was imported as images.*it holds DICOM or NIfTI files now"),
        (("volumes", "images"), "was imported as volumes.*no DICOM or NIfTI file any more"),
    ],
)
def test_a_folder_whose_files_would_be_imported_a_second_time_is_refused(
    studio: LabelStudio,
    fake: FakeLabelStudio,
    tmp_path: Path,
    kinds: tuple[Kind, Kind],
    why: str,
) -> None:
    state = tmp_path / "state"
    state.mkdir()

    def project(kind: Kind) -> int:
        return run.project_of(plan(tmp_path), studio, Memory.read(state, ""), state, kind)

    first, second = kinds
    number = project(first)
    with pytest.raises(ConfigError, match=why) as caught:
        project(second)
    assert "--keep NEW_FOLDER" in caught.value.fix
    del fake.projects[number]
    assert project(second) in fake.projects
    assert project(second)


def test_uploaded_images_are_known_by_the_mark_in_their_address(
    studio: LabelStudio, fake: FakeLabelStudio, tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()
    [image], _ = images.from_folder(tmp_path)
    project = fake.add_project()
    fake.add_task(project)
    assert run.uploaded(studio, project) == set()
    fake.add_task(project, image=None, image_url=f"/data/upload/1/0a1b2c3d-{image.name}")
    assert run.uploaded(studio, project) == {image.mark}


def test_volumes_are_imported_once_beside_a_viewer(settings: Settings, tmp_path: Path) -> None:
    fake = FillableLabelStudio()
    studio = LabelStudio(settings, fake.client())
    folder, state = tmp_path / "brains", tmp_path / "state"
    for path in (folder, state):
        path.mkdir()
    save_nifti(folder / "a.nii", np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4))
    project = run.project_of(plan(folder), studio, Memory.read(state, ""), state, "volumes")
    here = settings.model_copy(update={"data_dir": state})
    for _ in range(2):
        run.import_volumes(here, studio, project, folder)
    assert len(fake.projects[project].tasks) == 3
    assert "$slices" in fake.projects[project].label_config


@pytest.mark.parametrize(
    ("folder", "kind", "options"),
    [
        (None, "images", {"seed": 0}),
        (Path("scans"), "images", {}),
        (Path("scans"), "volumes", {"group_by": "volume", "slice_by": "slice"}),
    ],
)
def test_only_a_project_without_an_entry_gets_options(
    studio: LabelStudio,
    fake: FakeLabelStudio,
    folder: Path | None,
    kind: Kind,
    options: dict[str, object],
) -> None:
    project = fake.add_project()
    fake.connect(project, url="http://127.0.0.1:9999")
    assert run.options_of(plan(folder), studio, project, US, kind) == options
    fake.connect(project, {"alpha": 0.5}, url=f"{US}/")
    assert run.options_of(plan(folder), studio, project, US, kind) == {}


def test_a_state_folder_among_the_volumes_is_refused_before_anything_starts(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = tmp_path / "scans"
    save_nifti(scans / "a.nii", np.zeros((5, 4, 3), np.int16), np.eye(4))
    monkeypatch.chdir(scans)
    here = settings.model_copy(update={"data_dir": Path("data")})
    with pytest.raises(ConfigError, match=r"would be written into .* elsewhere by --keep"):
        run.run(plan(Path()), here)
    assert [path.name for path in (scans / "data").iterdir()] == ["quickstart.lock"]
