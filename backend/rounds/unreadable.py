"""Unreadable scans: name each one, or conclude that the image storage is unavailable."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from backend import logs
from backend.errors import ImageError
from backend.rounds.context import RoundContext
from backend.storage.scans import KILLER_PAUSE_SECONDS
from backend.storage.tables import Task

log = logging.getLogger(__name__)

MANY_UNREADABLE = 4  # more than one unreadable scan in four: the storage is unavailable
STORAGE_AWAY = "Many scans that could be read before cannot be read now."
LOST_AFTER_SECONDS = 24 * 3600.0
MOST_DEATHS = 2  # of workers that read a scan in a batch; after that it is read alone


def check_storage(here: RoundContext, unreadable: int, asked: int) -> None:
    """Fail the round if so many scans are unreadable that their storage must be unavailable.

    The live queue stays. After a day the scans count as lost, and the round goes on.

    Raises:
        ImageError: If more than a quarter of the scans, and more than one scan, are unreadable.
    """
    if unreadable <= max(1, asked // MANY_UNREADABLE):
        return
    now = here.store.clock()
    since = here.project.storage_away_since or now
    if now - since < LOST_AFTER_SECONDS:
        here.store.projects.update(here.id, storage_away_since=min(since, now))
        # If Label Studio itself is down, this call raises and reports the true cause.
        here.services.studio.project(here.id)
        log.warning("%d of %d scans cannot be read", unreadable, asked)
        raise ImageError(
            STORAGE_AWAY,
            "Check that the storage of the images runs. The backend tries again by itself, and the "
            "queue stays as it is. If scans are lost for good, delete their tasks, or wait a day.",
        )


def note(here: RoundContext, broken: Mapping[int, ImageError]) -> None:
    """Write down which scans cannot be read, and why, by task id."""
    if broken:
        # If Label Studio is down, this call raises, the round waits, and no scan is blamed.
        here.services.studio.project(here.id)
    for task_id, error in broken.items():
        with logs.context(task=task_id):
            log.warning("%s", error)
        here.store.scans.mark_unreadable(here.id, task_id, str(error))


def name_killers(here: RoundContext, tasks: Sequence[Task]) -> None:
    """Name the scans that a worker read alone when it died; they are skipped for a day."""
    for task in tasks:
        error = ImageError(
            f"Task {task.id}: {task.deaths} workers died while they read or embedded its scan.",
            "Save the scan as a plain PNG or JPEG, or give the worker more memory. The scan is "
            "tried again after a day.",
        )
        with logs.context(task=task.id):
            log.error("%s", error)
        here.store.scans.mark_unreadable(here.id, task.id, str(error), KILLER_PAUSE_SECONDS)
        here.store.scans.update_reading(here.id, [task.id], deaths=MOST_DEATHS)
