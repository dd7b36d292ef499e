"""Scans become embeddings, a chunk at a time: fetched, decoded, encoded, kept in files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from backend.errors import ConfigError, ImageError
from backend.imaging.pixels import Pixels
from backend.rounds import unreadable
from backend.rounds.context import RoundContext
from backend.rounds.unreadable import MOST_DEATHS
from backend.storage import artifacts, pages
from backend.storage.scans import is_retried
from backend.storage.tables import Task
from model.encoders import Floats
from model.plugins import PluginError

# Scans: so many are read again at most if their worker dies.
CHUNK, LARGEST_CHUNK = 64, 256
# Between two chunks the worker waits for a poll, so a large pool has larger chunks.
MOST_CHUNKS = 400


def chunk_size(scans: int) -> int:
    """Return how many scans are embedded in one go if so many wait."""
    return min(max(CHUNK, math.ceil(scans / MOST_CHUNKS)), LARGEST_CHUNK)


def unseen(here: RoundContext) -> list[int]:
    """Return the tasks that have no embedding and may be read now."""
    now = here.store.clock()
    return [
        task.id
        for task in here.store.scans.unembedded(here.id, here.encoder.name)
        if not task.problem or is_retried(task, now)
    ]


def embed(here: RoundContext, task_ids: Sequence[int], worker: str) -> None:
    """Fetch, decode and embed scans; name unreadable scans and retry them later.

    Args:
        here: The project.
        task_ids: The scans.
        worker: Name of this worker: if it dies, the others see which scans it was reading.
    """
    wanted = here.store.scans.some(here.id, task_ids)
    broken: dict[int, ImageError] = {}
    for tasks in _apart([task for task in wanted if task.deaths <= MOST_DEATHS]):
        with _in_hand(here, [task.id for task in tasks], worker):
            for part in _by_pages(tasks):
                broken |= _read(here, part)
    if any(task.problem for task in wanted if task.id not in broken):
        here.store.scans.retry_unreadable(here.id)  # their storage may be back
    unreadable.note(here, broken)
    unreadable.name_killers(here, [task for task in wanted if task.deaths > MOST_DEATHS])


@contextmanager
def _in_hand(here: RoundContext, task_ids: list[int], worker: str) -> Iterator[None]:
    """Note in the database which scans this worker reads, for the others to see if it dies."""
    here.store.scans.update_reading(here.id, task_ids, read_by=worker)
    try:
        yield
    finally:
        here.store.scans.update_reading(here.id, task_ids, read_by="")


def _read(here: RoundContext, tasks: Sequence[Task]) -> dict[int, ImageError]:
    """Embed scans; return the errors of unreadable scans by task id."""
    scans, facts, broken = [], [], {}
    for task_id, scan in here.learner.scans.many((task.id, task.url) for task in tasks):
        if isinstance(scan, ImageError):
            broken[task_id] = scan
            continue
        height, width = scan.size
        scans.append(scan.pages)
        facts.append({"task": task_id, "height": height, "width": width, "pixels": scan.digest})
    if facts:
        here.store.scans.note_pixels(here.id, facts)
        _encode(here, [task for task in tasks if task.id not in broken], scans)
        harmless = [task.id for task in tasks if task.deaths and task.id not in broken]
        here.store.scans.update_reading(here.id, harmless, deaths=0)
    return broken


def _encode(here: RoundContext, tasks: Sequence[Task], scans: Sequence[Sequence[Pixels]]) -> None:
    ids = [task.id for task in tasks]
    name = artifacts.digest(here.encoder.name, ids, [task.url for task in tasks]) + ".npy"
    file = artifacts.embeddings_name(name)
    if not here.files.exists(file):
        here.files.write_array(file, _vectors(here, scans))
    here.store.embeddings.save(here.id, here.encoder.name, name, ids)


def _vectors(here: RoundContext, scans: Sequence[Sequence[Pixels]]) -> Floats:
    """Return the embedding of each scan: of a slab, the mean of its pages.

    People draw on every page, so every page counts; the middle one alone may be an odd one.
    """
    try:
        vectors = here.encoder.encode([page for scan in scans for page in scan])
    except PluginError as error:
        raise ConfigError(
            f"The encoder failed: {error}.", "The next try uses the built-in default instead."
        ) from error
    ends = np.cumsum([len(scan) for scan in scans])
    return np.stack([of_scan.mean(axis=0) for of_scan in np.split(vectors, ends[:-1])])


def _by_pages(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Yield scans together as long as their pages fit into memory; scans of one page are one part.

    All pages of a part are in memory at once.
    """
    part: list[Task] = []
    held = 0
    for task in tasks:
        count = len(pages.separate(task.url))
        if part and held + count > LARGEST_CHUNK:
            yield part
            part, held = [], 0
        part.append(task)
        held += count
    if part:
        yield part


def _apart(tasks: list[Task]) -> Iterator[list[Task]]:
    """Yield the harmless scans together, then each scan that workers died with on its own."""
    together = [task for task in tasks if task.deaths < MOST_DEATHS]
    if together:
        yield together
    for task in tasks:
        if task.deaths >= MOST_DEATHS:
            yield [task]
