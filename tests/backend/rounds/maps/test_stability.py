from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from backend.commands.cli import cli
from backend.errors import ConfigError, ImageError, NotFound, OptionsError
from backend.options import ProjectOptions
from backend.rounds.maps import stability
from backend.rounds.selection import Selector
from backend.settings import Settings
from backend.storage import artifacts, ledger
from backend.storage.artifacts import Artifacts
from backend.storage.store import Store
from model import encoders
from tests.backend.conftest import the
from tests.backend.fake_label_studio import CONFIG


@pytest.fixture
def project(store: Store, settings: Settings) -> int:
    """Project 1 with 30 embedded scans without any structure."""
    store.projects.request_refresh(1)
    options = ProjectOptions(cold_start_budget=4, encoder="pixels").model_dump()
    store.projects.update(1, label_config=CONFIG, options=options)
    vectors = np.random.default_rng(0).random((30, 256), np.float32)
    artifacts.write_array(settings.project_folder(1) / "embeddings" / "a.npy", vectors)
    store.scans.save(1, [{"id": i, "url": f"{i}.png"} for i in range(1, 31)])
    store.embeddings.save(1, "pixels", "a.npy", list(range(1, 31)))
    return 1


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(folder / f"{number:02}.png")
    return folder


def warnings_of(store: Store, settings: Settings) -> list[str]:
    files = Artifacts(settings.data_dir).of(1)
    selector = Selector(store, the(store, 1), files, encoders.load("pixels"))
    found = selector.rank(ledger.read(store, 1), {}).warnings
    return [line for line in found if line.startswith("instability")]


@pytest.mark.slow
def test_an_unstable_project_is_told_on_its_page_until_what_was_measured_changes(
    store: Store, settings: Settings, project: int
) -> None:
    options = the(store, 1).options
    store.projects.update(1, options={**options, "projection": "tsne"})
    assert warnings_of(store, settings) == []

    found = stability.of_project(settings, store, project, {"cold_start": "random"}, seeds=3)

    assert found.warnings
    assert warnings_of(store, settings) == []  # measured for another strategy
    options = the(store, 1).options
    store.projects.update(1, options={**options, "cold_start": "random"})
    [said] = warnings_of(store, settings)
    assert f"share {found.overall:.2f} of their scans" in said
    store.scans.save(1, [{"id": i, "url": f"{i}.png"} for i in range(31, 41)])
    store.embeddings.save(1, "pixels", "a.npy", list(range(31, 41)))
    assert warnings_of(store, settings) == []  # a third more scans: another map
    store.scans.keep_only(1, range(1, 31))
    store.projects.update(1, options={**options, "cold_start": "random", "projection": "pca"})
    assert warnings_of(store, settings) == []


def test_a_folder_of_images_can_be_measured(settings: Settings, tmp_path: Path) -> None:
    pictures(tmp_path / "set" / "images", 25)

    found = stability.of_folder(
        settings, tmp_path / "set", {"cold_start_budget": 3, "encoder": "pixels"}, seeds=1
    )

    assert [one.perplexity for one in found.chosen] == [5, 8]  # 25 scans allow no more
    assert all(len(one.rows) == 3 for one in found.chosen)
    text = stability.table(found)
    assert "two random choices           0.12" in text
    assert text.count("\n") >= 7


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"cold_start_budget": 30},
            ConfigError,
            "choose 30 of 30 scans, so there is nothing to compare",
        ),
        ({"cold_start": "luck"}, OptionsError, "cold_start"),
    ],
)
def test_what_cannot_be_measured_is_an_error_with_the_mend(
    store: Store,
    settings: Settings,
    project: int,
    changed: dict[str, Any],
    error: Any,
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        stability.of_project(settings, store, project, changed, seeds=1)


def test_an_unknown_project_or_folder_is_an_error(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="Project 7 is not known here"):
        stability.of_project(settings, store, 7, {}, seeds=1)
    with pytest.raises(ConfigError, match="neither a folder nor the number of a project"):
        stability.of_folder(settings, tmp_path / "absent", {}, seeds=1)
    with pytest.raises(ConfigError, match=r"holds no image\. Give a folder with at least 5 PNG"):
        stability.of_folder(settings, tmp_path, {}, seeds=1)


def test_an_image_that_cannot_be_read_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ImageError, match=r"a\.png cannot be read: .* take it out of the folder"):
        stability.of_folder(settings, tmp_path, {"encoder": "pixels"}, seeds=1)


def test_the_command_prints_the_maps_and_the_overlaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    folder = pictures(tmp_path / "scans", 22)

    result = CliRunner().invoke(
        cli, ["stability", str(folder), "--encoder", "pixels", "--budget", "2", "--seeds", "2"]
    )

    assert result.exit_code == 0, result.output
    assert result.output.count("\n") == 5 + 6 + ("instability" in result.output)
    assert "two perplexities, same seed" in result.output
