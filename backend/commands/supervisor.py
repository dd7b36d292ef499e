"""Web and worker as two processes of one command."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from backend.settings import own_python

log = logging.getLogger(__name__)

ROLES = ("web", "worker")
MISCONFIGURED = 2  # the exit code of a process that a person has to fix
STOP_SECONDS = 8.0
MOST_WAIT_SECONDS = 60.0
STEADY_SECONDS = 60.0


@dataclass
class Child:
    """A child process, and when it is started again."""

    role: str
    process: subprocess.Popen[bytes]
    started_at: float
    failures: int = 0
    restart_at: float = 0.0
    restarted: bool = False


def run() -> int:
    """Run both until SIGTERM or SIGINT; restart a process that dies. Return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = [Child(role, _spawn(role), time.monotonic()) for role in ROLES]
    code = 0
    while not stop.wait(0.2) and code == 0:
        code = max(_tend(child, time.monotonic()) for child in children)
    _end(children)
    return code


def _tend(child: Child, now: float) -> int:
    """Restart a child that died; return a code other than 0 if a restart cannot help."""
    status = child.process.poll()
    if status is None:
        if now - child.started_at >= STEADY_SECONDS:
            child.failures = 0
        return 0
    # These settings worked before, so the failure is transient (for example, another process still
    # holds the port).
    if status == MISCONFIGURED and not child.restarted:
        return MISCONFIGURED
    if not child.restart_at:
        wait = min(MOST_WAIT_SECONDS, 2.0**child.failures)
        log.error("%s ended with status %s; starts again in %.0f s", child.role, status, wait)
        child.failures, child.restart_at = child.failures + 1, now + wait
    elif now >= child.restart_at:
        child.process, child.started_at, child.restart_at = _spawn(child.role), now, 0.0
        child.restarted = True
    return 0


def _spawn(role: str) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this process alone, which then ends both in order.
    # The pipe closes however this process ends, and the child, which watches it, ends too.
    return subprocess.Popen(
        [*own_python(), role, "--with-parent"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def end_with_parent() -> None:
    """End this process in order when its parent process is gone."""

    def watch() -> None:
        # Not sys.stdin: a thread that waits in it holds its lock when Python exits.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _end(children: list[Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
