from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.commands import supervisor
from backend.commands.supervisor import MOST_WAIT_SECONDS, STEADY_SECONDS, Child

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
# The supervisor itself, with two small programs in place of web and worker. Each notes its start.
HARNESS = """
import subprocess, sys
from backend.commands import supervisor


folder, stop_seconds, *programs = sys.argv[1:]
scripts = dict(zip(supervisor.ROLES, programs))

def spawn(role):
    note = f"open({folder!r} + '/{role}', 'a').write(str(__import__('os').getpid()) + chr(10))"
    return subprocess.Popen(
        [sys.executable, "-c", note + chr(10) + scripts[role]], start_new_session=True
    )

supervisor._spawn = spawn
supervisor.STOP_SECONDS = float(stop_seconds)
sys.exit(supervisor.run())
"""
WAIT = "import time; time.sleep(600)"
DIE = "raise SystemExit(1)"
MISCONFIGURED = "raise SystemExit(2)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"

Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started: list[subprocess.Popen[bytes]] = []

    def start(web: str, worker: str, stop_seconds: float = 8) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HARNESS, str(tmp_path), str(stop_seconds), web, worker]
        started.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def pids(folder: Path, role: str) -> list[int]:
    path = folder / role
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not so within {seconds:.0f} s")
        time.sleep(0.02)


def test_a_child_that_dies_is_started_again_and_the_other_goes_on(run: Run, tmp_path: Path) -> None:
    process = run(WAIT, DIE)
    wait_for(lambda: len(pids(tmp_path, "worker")) >= 2)
    assert process.poll() is None
    assert len(pids(tmp_path, "web")) == 1


def test_a_child_that_was_killed_is_started_again(run: Run, tmp_path: Path) -> None:
    run(WAIT, WAIT)
    wait_for(lambda: pids(tmp_path, "web"))
    os.kill(pids(tmp_path, "web")[0], signal.SIGKILL)
    wait_for(lambda: len(pids(tmp_path, "web")) == 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_children_and_is_no_failure(
    run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    process = run(WAIT, WAIT)
    wait_for(lambda: pids(tmp_path, "web") and pids(tmp_path, "worker"))
    process.send_signal(number)
    assert process.wait(10) == 0
    assert not any(alive(pid) for role in supervisor.ROLES for pid in pids(tmp_path, role))


def test_a_child_that_does_not_listen_is_killed_in_time(run: Run, tmp_path: Path) -> None:
    process = run(STUBBORN, STUBBORN, stop_seconds=0.3)
    wait_for(lambda: pids(tmp_path, "web") and pids(tmp_path, "worker"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert not any(alive(pid) for role in supervisor.ROLES for pid in pids(tmp_path, role))
    assert supervisor.STOP_SECONDS < 9  # what stops containers kills after 10


def test_a_child_that_is_misconfigured_ends_everything_with_its_code(
    run: Run, tmp_path: Path
) -> None:
    process = run(WAIT, MISCONFIGURED)
    assert process.wait(30) == 2
    assert not any(alive(pid) for pid in pids(tmp_path, "web"))
    assert len(pids(tmp_path, "worker")) == 1


class Ended:
    """A process that ended with a status."""

    def __init__(self, status: int | None) -> None:
        self.status = status

    def poll(self) -> int | None:
        return self.status


def test_every_failure_is_waited_for_longer_up_to_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: Any = Ended(1)
    monkeypatch.setattr(supervisor, "_spawn", lambda role: ended)
    child, now, waits = Child("worker", ended, 0.0), 1000.0, []
    for _ in range(9):
        assert supervisor._tend(child, now) == 0
        waits.append(child.restart_at - now)
        assert supervisor._tend(child, child.restart_at - 0.1) == 0
        assert child.restart_at  # not yet
        now = child.restart_at
        supervisor._tend(child, now)
        assert not child.restart_at
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == MOST_WAIT_SECONDS


def test_what_ran_once_is_not_misconfigured_and_is_started_until_it_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed web process may leave forks behind that hold its port for some seconds."""
    killed, refused = Ended(-9), Ended(2)
    monkeypatch.setattr(supervisor, "_spawn", lambda role: refused)
    child: Any = Child("web", killed, 0.0)  # type: ignore[arg-type]
    assert supervisor._tend(child, 100.0) == 0
    assert supervisor._tend(child, 101.0) == 0
    assert child.process is refused
    assert supervisor._tend(child, 102.0) == 0
    assert child.restart_at == 104.0


def test_a_child_ends_in_order_when_its_parent_is_gone() -> None:
    program = (
        "import signal, sys, threading\n"
        "from backend.commands.supervisor import end_with_parent\n"
        "ended = threading.Event()\n"
        "signal.signal(signal.SIGTERM, lambda *_: ended.set())\n"
        "end_with_parent()\n"
        "sys.exit(7 if ended.wait(60) else 1)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.close()  # what the kernel does when the parent dies, however it dies
        assert child.wait(30) == 7


def test_a_child_that_runs_is_left_alone() -> None:
    running: Any = Ended(None)
    child = Child("web", running, started_at=0.0, failures=3)
    assert supervisor._tend(child, 1.0) == 0
    assert child.failures == 3
    assert supervisor._tend(child, STEADY_SECONDS) == 0
    assert child.failures == 0, "it has run steadily, so that the next failure is a first one"
