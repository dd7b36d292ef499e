from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from backend.commands.quickstart.process import (
    Process,
    bare_environment,
    environment_without,
    free_port,
    taken,
)
from backend.errors import ServerError


def test_stopping_a_process_ends_what_it_started_too(tmp_path: Path) -> None:
    # Both hold the FIFO open for writing, and the child ignores SIGTERM: the end of the file can
    # only be read once both are gone.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = "import signal; signal.signal(15, 1); print('up', flush=True); signal.pause()"
    parent = f"""
import subprocess, sys
held = open({str(fifo)!r}, "w")
subprocess.Popen([sys.executable, "-c", {child!r}], stdout=held).wait()
"""
    command = [sys.executable, "-c", parent]
    process = Process(command, log=tmp_path / "log", env=bare_environment(), cwd=tmp_path)
    with fifo.open() as reader:
        assert reader.readline() == "up\n"
        process.stop(seconds=5)
        assert reader.read() == ""
    assert not process.running


def test_a_process_that_ended_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('disk full\\n'); raise SystemExit(3)"]
    process = Process(command, log=tmp_path / "log", env=bare_environment(), cwd=tmp_path)
    assert process.wait(20) == 3
    with pytest.raises(ServerError, match="The worker ended with code 3: disk full"):
        process.check("The worker")
    process.stop(seconds=1)


def test_a_free_port_is_not_taken() -> None:
    assert not taken(free_port())


def test_a_program_can_be_kept_from_some_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_KEPT", "yes")
    monkeypatch.setenv("FIRSTLIGHT_LEFT_OUT", "no")
    env = environment_without({"FIRSTLIGHT_LEFT_OUT"})
    assert env["FIRSTLIGHT_KEPT"] == "yes"
    assert "FIRSTLIGHT_LEFT_OUT" not in env
