"""Programs of Python in processes that are forked from one with the heavy libraries in it.

A program that imports the libraries itself needs many seconds of a core, more than most tests need
for the rest. The list holds no module of the service that keeps a state, so a fork begins like a
new process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path

LIBRARIES = (
    "backend.rounds.drafts.drafting",
    "backend.rounds.maps.encoding",
    "backend.rounds.drafts.draft_quality",
    "backend.rounds.selection",
    "backend.rounds.services",
    "dbos",
    "sklearn.cluster",
    "sklearn.manifold",
)


class Forked:
    """A program in a process group of its own, with as much of subprocess.Popen as tests use.

    Args:
        program: A function of a module, called in the process.
        given: Its arguments.
        env: The whole environment.
        log: What the program writes to standard output and error is appended here.
    """

    def __init__(
        self, program: Callable[..., object], *given: object, env: Mapping[str, str], log: Path
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(LIBRARIES))
        self._process = context.Process(
            target=_run, args=(program, given, dict(env), log), daemon=True
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal if that was its end; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, seconds: float | None = None) -> int:
        """Return the exit code, once it has ended."""
        self._process.join(seconds)
        assert self.returncode is not None, f"it still runs after {seconds} s"
        return self.returncode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _run(
    program: Callable[..., object], given: tuple[object, ...], env: dict[str, str], log: Path
) -> None:
    os.setsid()
    _say_into(log)
    _end_with_parent()
    os.environ.clear()
    os.environ.update(env)
    program(*given)


def _say_into(log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end_with_parent() -> None:
    """A test run that was killed must not leave a process behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
