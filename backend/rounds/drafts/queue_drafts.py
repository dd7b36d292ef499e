"""The drafts of a round: for which scans, whether people see them, and how long they stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from backend.rounds.context import RoundContext
from backend.rounds.drafts import drafting, prelabels
from backend.rounds.drafts.between import DRAWN_BETWEEN, SlicesBetween
from backend.storage import artifacts, pages
from backend.storage.artifacts import ProjectFiles
from backend.storage.records import QueueRecord

KEPT_DRAFTS = 20  # rounds
JUDGED_DRAFTS = 100  # more than are labelled while a round is made


Drafts = dict[int, list[dict[str, Any]]]  # the regions by task id


class QueueHead:
    """The scans at the head of a queue, for which drafts are drawn.

    Drafts are drawn even while they are hidden: the next annotations then measure the model.
    A scan with a usable label gets none: its draft would show the next person what the model
    learnt from the first person's mask, and the two would agree too well.

    Args:
        here: The project.
        queue: The task ids in order.
        fingerprint: Of the round. If it is that of the live queue, then scans, classes and shapes
            are the same, and the live drafts of the same model are taken over.
    """

    def __init__(self, here: RoundContext, queue: Sequence[int], fingerprint: str) -> None:
        horizon = here.options.horizon
        self._here = here
        fresh = [task_id for task_id in queue[:horizon] if task_id not in here.ledger.usable]
        self._tasks = fresh if are_shown(here) else fresh[:JUDGED_DRAFTS]
        self._may_take_over = fingerprint == here.project.fingerprint

    def missing(self, key: str) -> int:
        """Return how many drafts a model would have to draw."""
        drawn = self._live_drafts(key)
        return sum(task_id not in drawn for task_id in self._tasks)

    def draw(self, key: str, stop: Callable[[], bool] = lambda: False) -> Drafts:
        """Return a model's drafts.

        Args:
            key: Of the model.
            stop: Called before every draft; if it returns True, the result is incomplete.
        """
        here, drawn = self._here, self._live_drafts(key)
        missing = [task_id for task_id in self._tasks if task_id not in drawn]
        urls = here.store.scans.addresses(here.id, missing)
        wanted = [(task_id, urls[task_id]) for task_id in missing]
        found = takewhile(lambda _: not stop(), here.learner.predict(key, wanted))
        new = {
            task_id: drafting.regions(probabilities, scan.size, here.config)
            for task_id, scan, probabilities in found
        }
        return {task_id: drawn[task_id] for task_id in self._tasks if task_id in drawn} | new

    def _live_drafts(self, key: str) -> Drafts:
        """Return the drafts of the live queue, if the same model drew them."""
        live = self._here.store.publications.get(self._here.id, self._here.project.live_version)
        if not self._may_take_over or live is None or live.model_key != key or not live.drafts:
            return {}
        stored = self._here.files.read_json(artifacts.drafts_named(live.drafts)) or {}
        return {int(task_id): regions for task_id, regions in stored.items()}


def are_shown(here: RoundContext) -> bool:
    """Return whether people see drafts now."""
    dice = [score.dice for score in here.store.labels.draft_scores(here.id)]
    return prelabels.wanted(here.project, len(here.ledger.usable), dice)


def to_show(here: RoundContext, file: str, queue: Sequence[int]) -> dict[str, Any]:
    """Return the regions that a queue is published with, by task id; none while they are hidden.

    A task that has lost pages since gets no draft: with a region on a page that is not there,
    Label Studio accepts no Submit and does not say why.

    Args:
        here: The project.
        file: The name of the model's drafts.
        queue: The task ids that are published.
    """
    if not are_shown(here):
        return {}
    stored: dict[str, Any] = here.files.read_json(file) or {}
    urls = here.store.scans.addresses(here.id, [int(task) for task in stored])
    counts = {str(task): len(pages.separate(url)) for task, url in urls.items()}
    fitting = {
        task: regions
        for task, regions in stored.items()
        if all(region.get("item_index", 0) < counts.get(task, 0) for region in regions)
    }
    between = SlicesBetween(here).drafts(queue)
    return fitting | {str(task_id): regions for task_id, regions in between}


def explained(here: RoundContext, queue: QueueRecord) -> QueueRecord:
    """Return the record of a queue, with the slices named whose draft is not the model's."""
    if not queue.model or not are_shown(here):
        return queue
    between = SlicesBetween(here).chosen(queue.order[: here.options.horizon])
    reasons = [
        f"{reason}; {DRAWN_BETWEEN}" if task in between else reason
        for task, reason in zip(queue.order, queue.reasons, strict=True)
    ]
    return queue.changed(reasons=reasons)


def forget_old(files: ProjectFiles) -> None:
    """Delete the drafts of rounds so old that no annotator still has one open."""
    by_round = sorted(files.names(artifacts.DRAFTS), key=artifacts.round_of)
    for name in by_round[:-KEPT_DRAFTS]:
        files.remove(name)
