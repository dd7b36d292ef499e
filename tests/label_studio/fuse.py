"""A worker that SIGKILLs processes at one point of a round, once.

The points are put around the code from outside, in the worker's own process: the service itself
knows nothing of them.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = (
    "begin",
    "sync",
    "judge",
    "unseen",
    "embed_chunk",
    "plan",
    "train",
    "pool",
    "score_chunk",
    "select",
    "draft",
    "publish",
    "switch",
    "finish",
)
BATCHES = 3  # so far a training comes
CHUNK = 10  # predictions an import call carries; a queue here is longer
SENT_SECONDS = 0.02  # after which Label Studio is at work on an import call


@dataclass(frozen=True)
class Fuse:
    """What is to be killed, and where; in a file, as the one who sets it is another process."""

    path: Path

    def set(self, point: str, groups: list[int]) -> None:
        """Kill these process groups in turn when `point` is come to; 0 is the worker's own."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"point": point, "groups": groups}))
        fresh.replace(self.path)

    def read(self) -> dict[str, Any]:
        """Return what is set; empty when nothing is, or it has burnt."""
        try:
            return dict(json.loads(self.path.read_text()))
        except FileNotFoundError:
            return {}

    def burn(self, point: str) -> None:
        """Kill if this is the point."""
        found = self.read()
        if found.get("point") == point:
            self.path.unlink()  # before the kill: once is enough
            for group in found["groups"]:
                os.killpg(group, signal.SIGKILL)


def work(fuse: Fuse, quiet: float | None) -> None:
    """Be `python -m backend worker`, with a fuse in it; never returns.

    Args:
        fuse: Burns in this process.
        quiet: Seconds without a submit after which old versions go; None for the usual.
    """
    put_in(fuse)
    if quiet is not None:
        from backend.label_studio import publisher

        publisher.QUIET_SECONDS = quiet
    from backend.commands.cli import cli

    cli(["worker"])


def put_in(fuse: Fuse) -> None:
    _around_steps(fuse)
    from backend.label_studio import client, publisher, queue_import, transport
    from backend.rounds.models import learner
    from backend.storage import artifacts, publications

    queue_import.IMPORT_CHUNK = CHUNK
    _in_training(fuse, learner.Learner)
    _in_imports(fuse, transport.Transport)
    _behind(fuse, artifacts.ProjectFiles, "write", "weights written", of="models/")
    _behind(fuse, publisher.Publisher, "_arrived", "all arrived")
    _behind(fuse, publications.Publications, "go_live", "live here")
    _behind(fuse, client.LabelStudio, "switch", "live there")
    _behind(fuse, client.LabelStudio, "delete_version", "version deleted")


def _around_steps(fuse: Fuse) -> None:
    """Before and behind the body of every step; behind it DBOS has not yet noted the outcome.

    The class of the rounds must not have been imported yet: its steps are wrapped as they are made.
    """
    from dbos import DBOS

    real = DBOS.step

    def step(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return lambda body: real(**options)(_fused(fuse, body))

    DBOS.step = step  # type: ignore[method-assign]


def _fused(fuse: Fuse, body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(body)
    def fused(*args: Any) -> Any:
        # A fuse that is set while a step runs is meant for the next time.
        was_set = fuse.read()
        fuse.burn(f"before {body.__name__}")
        found = body(*args)
        if was_set:
            fuse.burn(f"after {body.__name__}")
        return found

    return fused


def _behind(fuse: Fuse, owner: type[Any], name: str, point: str, of: str = "") -> None:
    """Behind a method; `of` is what its first argument begins with, where that matters."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def fused(*args: Any, **named: Any) -> Any:
        found = real(*args, **named)
        if not of or args[1].startswith(of):
            fuse.burn(point)
        return found

    setattr(owner, name, fused)


def _in_training(fuse: Fuse, learner: type[Any]) -> None:
    real = learner.reporter

    def reporter(self: Any) -> Callable[[Any], None]:
        report = real(self)

        def told(progress: Any) -> None:
            report(progress)
            if progress.step == BATCHES:
                fuse.burn("in training")

        return told

    learner.reporter = reporter


def _in_imports(fuse: Fuse, transport: type[Any]) -> None:
    """While Label Studio is at work on the first call of an import, and behind that call."""
    real = transport.call

    def call(self: Any, method: str, path: str, *args: Any, **named: Any) -> Any:
        if not path.endswith("import/predictions"):
            return real(self, method, path, *args, **named)
        threading.Thread(target=soon, daemon=True).start()
        found = real(self, method, path, *args, **named)
        fuse.burn("half imported")
        return found

    def soon() -> None:
        time.sleep(SENT_SECONDS)
        fuse.burn("import sent")

    transport.call = call
