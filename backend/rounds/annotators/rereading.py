"""Ask for a second annotation of some scans, so that agreement is measured from the start.

Label Studio has a number of annotations for each task (`overlap`). Even its free edition lets the
API raise it for a single task: PATCH /api/tasks/{id}/.
"""

from __future__ import annotations

import logging

import numpy as np

from backend.errors import LabelStudioError
from backend.rounds.context import RoundContext
from backend.storage import records
from model import agreement

log = logging.getLogger(__name__)

ANNOTATIONS = 2  # that a chosen scan needs
MOST_CALLS = 10  # in one round; the next round asks for the rest


def ask(here: RoundContext, number: int) -> None:
    """Ask for a second annotation of some scans of the next batch of a round's queue."""
    share = here.options.second_reading
    queue = records.read_queue(here.files, number) if share else None
    if queue is None:
        return
    overlaps = {task.id: task.overlap for task in here.ledger.tasks}
    batch = [task for task in queue.order if task in here.ledger.waiting][: here.options.batch_size]
    single = [task for task in batch if overlaps[task] < ANNOTATIONS]
    scores = [queue.scans.get(task, {}).get("entropy") for task in single]
    chosen = agreement.second_readings(
        np.array([np.nan if score is None else score for score in scores], np.float64),
        scans=len(here.ledger.usable) + len(batch),
        asked=sum(overlap >= ANNOTATIONS for overlap in overlaps.values()),
        share=share,
        seed=here.options.seed + number,
    )
    try:
        for row in chosen[:MOST_CALLS]:
            here.services.studio.require_annotations(single[row], ANNOTATIONS)
            here.store.scans.update(here.id, single[row], overlap=ANNOTATIONS)
    except LabelStudioError as error:
        log.warning("no second annotation was asked for, the next round tries again: %s", error)
