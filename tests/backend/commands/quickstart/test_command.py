from __future__ import annotations

from pathlib import Path

from tests.backend.commands.test_cli import refused, run


def test_a_token_without_its_label_studio_is_refused() -> None:
    done = run("quickstart", "--token", "hunter2")
    assert done.returncode == 2
    assert "--token needs --label-studio" in done.stderr
    assert "hunter2" not in done.stderr


def test_a_label_studio_without_a_token_says_where_to_get_one(tmp_path: Path) -> None:
    line = refused("quickstart", "--label-studio", "http://127.0.0.1:1", "--keep", str(tmp_path))
    assert "LABEL_STUDIO_API_KEY is not set" in line


def test_an_address_that_is_none_is_refused() -> None:
    assert "LABEL_STUDIO_URL: " in refused("quickstart", "--label-studio", "here", "--token", "x")


def test_a_folder_without_images_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    state = tmp_path / "state"
    line = refused("quickstart", str(tmp_path / "empty"), "--keep", str(state))
    assert "quickstart reads PNG, JPEG, TIFF, DICOM and NIfTI" in line
    assert [path.name for path in state.iterdir()] == ["quickstart.lock"]
