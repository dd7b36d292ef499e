"""A progress bar for every wait: with seconds where the end is unknown, else with the time left."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from backend.commands.quickstart.service import Status
from backend.web.project_page.sentences import STEPS

_REDRAW_SECONDS = 0.2


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Show a moving bar and the seconds so far while the block runs, and a full bar afterwards.

    The bar stays as it is if the block raises an error. The block stays in its thread: a server
    that it starts ends with the thread that started it.
    """
    over, succeeded = threading.Event(), threading.Event()
    thread = threading.Thread(target=_move, args=(label, over, succeeded), daemon=True)
    thread.start()
    try:
        yield
        succeeded.set()
    finally:
        over.set()
        thread.join()


def _move(label: str, over: threading.Event, succeeded: threading.Event) -> None:
    began = time.monotonic()
    bar = click.progressbar(
        itertools.count(),
        label=label,
        show_eta=False,
        show_percent=False,
        item_show_func=lambda _: f"{time.monotonic() - began:.0f} s",
    )
    with bar:
        while not over.wait(_REDRAW_SECONDS):
            bar.update(1)
        bar.finished = succeeded.is_set()
        bar.render_progress()


@contextmanager
def counting(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done, how many a second, and the time left.

    Yields:
        A function that is told how many more are done.
    """
    began = time.monotonic()
    with click.progressbar(
        length=total, label=label, show_pos=True, item_show_func=lambda text: text
    ) as bar:

        def advance(more: int) -> None:
            pace = (bar.pos + more) / max(time.monotonic() - began, 1e-3)
            bar.update(more, f"{pace:.1f} {unit}/s")

        yield advance


@contextmanager
def ordering(label: str, total: int) -> Iterator[Callable[[Status], None]]:
    """Show how many scans are embedded, how many a second, and the time left.

    Yields:
        A function that is told every status of the project.
    """
    pace = Pace(time.monotonic)
    with click.progressbar(
        length=total,
        label=label,
        show_pos=True,
        show_eta=False,  # it would count the steps before and after
        update_min_steps=0,  # redraw although no further scan is done
        item_show_func=lambda text: text,
    ) as bar:

        def show(status: Status) -> None:
            done = pace.done(status, total)
            bar.update(max(0, done - bar.pos), pace.words(status, total))

        yield show


class Pace:
    """How far the embedding of a project is, and how fast it goes.

    The worker counts whole chunks, so the pace is that until the last chunk.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: float | None = None  # when the first scan was about to be embedded
        self._counted = 0.0  # when the last chunk was done
        self._done = 0

    def done(self, status: Status, total: int) -> int:
        """Return how many scans are embedded; all of them once another step follows."""
        if status.embedded is not None:
            self._began = self._clock() if self._began is None else self._began
            if status.embedded != self._done:
                self._done, self._counted = min(status.embedded, total), self._clock()
        elif self._began is not None or status.live_version:
            self._done = total
        return self._done

    def words(self, status: Status, total: int) -> str:
        """Return what is under way, with the scans a second and the time left."""
        if status.embedded is None:
            idle = "ready" if status.live_version else "waiting for the worker"
            return STEPS.get(status.step or "", idle)
        if not self._done or self._began is None or self._counted == self._began:
            return "embedding"
        pace = self._done / (self._counted - self._began)
        left = (total - self._done) / pace - (self._clock() - self._counted)
        return f"embedding, {pace:.1f} scans/s, {max(left, 0):.0f} s left"
