from __future__ import annotations

from pathlib import Path

import pytest

from backend.commands.quickstart import installation
from backend.errors import ConfigError, ServerError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Label Studio is installed beside an installed wheel; returns that folder."""
    lock = tmp_path / "requirements-label-studio.txt"
    lock.write_text("label-studio==1.2.3 \\\n    --hash=sha256:0\n")
    monkeypatch.setattr(installation, "LOCK", lock)
    monkeypatch.setattr(installation, "IS_CLONE", False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    return tmp_path / "firstlight" / "label-studio-1.2.3"


def put_uv(folder: Path, script: str) -> None:
    programs = folder / "programs"
    programs.mkdir()
    (programs / "uv").write_text(f'#!/bin/sh\necho "$@" >>{folder}/asked\n{script}\n')
    (programs / "uv").chmod(0o755)


def test_without_uv_it_says_how_to_get_a_label_studio(wheel: Path) -> None:
    with pytest.raises(ConfigError, match="no uv") as caught:
        installation.environment()
    assert "pip install uv" in caught.value.fix
    assert "--label-studio URL --token TOKEN" in caught.value.fix


def test_uv_installs_the_lock_once(wheel: Path, tmp_path: Path) -> None:
    put_uv(tmp_path, f"/bin/mkdir -p {wheel}/bin; : >{wheel}/bin/label-studio")
    assert not installation.is_installed()
    assert installation.environment() == wheel
    asked = (tmp_path / "asked").read_text()
    assert f"pip install --python {wheel}/bin/python --no-deps --require-hashes" in asked
    assert installation.is_installed()
    assert installation.environment() == wheel
    assert (tmp_path / "asked").read_text() == asked, "the second call installs nothing"


def test_an_installation_that_failed_is_not_taken_for_complete(wheel: Path, tmp_path: Path) -> None:
    put_uv(tmp_path, f"/bin/mkdir -p {wheel}/bin; : >{wheel}/bin/label-studio; [ $1 = venv ]")
    with pytest.raises(ServerError, match="uv could not install"):
        installation.environment()
    assert not installation.is_installed()


def test_a_clone_is_told_to_run_its_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "IS_CLONE", True)
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    with pytest.raises(ConfigError, match=r"\.venv-label-studio.* Run scripts/setup"):
        installation.environment()
