from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from backend.commands.quickstart.state import Memory, emptied, held, write_variables
from backend.errors import ConfigError


def test_a_named_emptied_must_be_new_and_serves_one_demo(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty"), emptied(tmp_path / "used"):
        pass
    assert (tmp_path / "used" / "thesis.txt").exists()
    with emptied(tmp_path / "new") as folder:
        assert folder == (tmp_path / "new").resolve()


def test_the_default_emptied_is_emptied_and_serves_one_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.commands.quickstart.state.ROOT", tmp_path)
    (tmp_path / ".demo" / "backend").mkdir(parents=True)
    with emptied(None) as folder:
        assert [path.name for path in folder.iterdir()] == ["quickstart.lock"]
        with pytest.raises(ConfigError, match="Another quickstart"), emptied(None):
            pass


def test_a_state_folder_of_ones_own_images_is_kept_and_serves_one_command(tmp_path: Path) -> None:
    (tmp_path / "labels").touch()
    with held(tmp_path):
        with pytest.raises(ConfigError, match="--keep NEW_FOLDER"), held(tmp_path):
            pass
        assert (tmp_path / "labels").exists()


def test_the_project_of_a_folder_is_remembered(tmp_path: Path) -> None:
    images = tmp_path / "images"
    Memory.read(tmp_path, "").with_project(images, 7, "images").write(tmp_path)
    assert Memory.read(tmp_path, "").projects == {str(images): 7}


def test_servers_listen_where_they_did_unless_other_ports_are_asked_for(tmp_path: Path) -> None:
    first = Memory.read(tmp_path, "").with_ports(None, None)
    first.with_project(tmp_path, 7, "images").write(tmp_path)
    again = Memory.read(tmp_path, "")
    assert again.with_ports(None, None) == again
    assert (again.port, again.studio_port) == (first.port, first.studio_port)
    asked = again.with_ports(9191, 8181)
    assert (asked.port, asked.studio_port) == (9191, 8181)
    with socket.create_server(("127.0.0.1", again.port or 0)):
        assert again.with_ports(None, None).port != again.port


def test_a_state_folder_from_before_kinds_were_kept_is_read(tmp_path: Path) -> None:
    (tmp_path / "quickstart.json").write_text('{"label_studio": "", "projects": {"/a": 7}}')
    memory = Memory.read(tmp_path, "")
    assert memory.projects == {"/a": 7}
    memory.require_kind(Path("/a"), "volumes")


def test_a_state_folder_serves_one_label_studio(tmp_path: Path) -> None:
    Memory.read(tmp_path, "http://a").with_project(tmp_path, 7, "images").write(tmp_path)
    for other in ("http://b", ""):
        with pytest.raises(ConfigError, match="belongs to http://a") as caught:
            Memory.read(tmp_path, other)
        assert "--keep" in caught.value.fix


def test_an_installation_that_is_connected_elsewhere_gets_no_label_studio_of_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "firstlight.sqlite").touch()
    with pytest.raises(ConfigError, match="--keep"):
        Memory.read(tmp_path, "")
    assert Memory.read(tmp_path, "http://theirs").projects == {}


def test_a_shell_reads_the_variables_and_nobody_else_does(tmp_path: Path) -> None:
    file = write_variables(tmp_path, {"DATA_DIR": "it's here", "LABEL_STUDIO_API_KEY": "hunter2"})
    assert file.stat().st_mode & 0o777 == 0o600
    command = f". {file} && echo $DATA_DIR/$LABEL_STUDIO_API_KEY"
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert said.stdout == "it's here/hunter2\n"
