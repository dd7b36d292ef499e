"""Drafts of slices between two labelled slices of their volume, where these beat the model's.

Such a draft follows from the two labels alone (`model.between`). The drafts of the model say where
it is better: when a slice between two labelled ones is labelled, both kinds of draft are scored.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from backend.imaging.scan_cache import WORKING_SIZE
from backend.label_studio import labels
from backend.label_studio.moments import moment
from backend.rounds.context import RoundContext
from backend.rounds.drafts import drafting
from backend.rounds.models.examples import Mask
from backend.storage import pages
from model import evaluation
from model.between import between, reach

DRAWN_BETWEEN = "draft drawn between its labelled neighbours"  # ends the reason of such a slice
MOST = 100  # drafts in a queue: a round has to be quick
COMPARED = 100  # the last slices that were drawn both ways


@dataclass(frozen=True)
class Neighbours:
    """The labelled slices next to a slice: task ids, their distance, and the place between them."""

    before: int
    after: int
    gap: float
    place: float  # 0 at `before`, 1 at `after`


class SlicesBetween:
    """The slices of a project's volumes that lie between two labelled slices.

    A group is a volume if each of its scans has another place (`slice_by`). Slabs have none.
    """

    def __init__(self, here: RoundContext) -> None:
        self._here = here
        volumes: dict[str, list[tuple[float, int]]] = {}
        for task in here.ledger.tasks if here.options.group_by else ():
            is_slab = len(pages.separate(task.url)) > 1
            if task.group and task.place is not None and not is_slab:
                volumes.setdefault(task.group, []).append((task.place, task.id))
        self._volumes = {
            name: sorted(slices)
            for name, slices in volumes.items()
            if len({place for place, _ in slices}) == len(slices)
        }
        self._tasks = here.ledger.scans

    def score(self, task_id: int, submitted: Sequence[Any]) -> dict[str, float]:
        """Return the scores of a draft from the slices that were labelled before this one.

        Args:
            task_id: A labelled slice.
            submitted: The result of its first annotation.

        Returns:
            `gap`, the distance of these slices, and `between_dice`; empty if there are none.
        """
        usable = self._here.ledger.usable
        when = moment(usable[task_id][0].created_at)
        found = self._around(
            task_id, lambda other: other in usable and moment(usable[other][0].created_at) < when
        )
        size = self._size(task_id)
        if found is None or size is None:
            return {}
        truth = labels.masks(submitted, self._here.config, size=size)
        return {
            "gap": found.gap,
            "between_dice": evaluation.scan_dice(self._mask(found, size), truth),
        }

    def chosen(self, queue: Iterable[int]) -> dict[int, Neighbours]:
        """Return the unlabelled slices of a queue whose draft follows from their neighbours."""
        found: dict[int, Neighbours] = {}
        usable = self._here.ledger.usable
        for task_id in queue if self._reach else ():
            near = None if task_id in usable else self._around(task_id, usable.__contains__)
            if near is not None and near.gap <= self._reach:
                found[task_id] = near
            if len(found) == MOST:
                break
        return found

    def drafts(self, queue: Iterable[int]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield the task id and regions of each chosen slice."""
        for task_id, near in self.chosen(queue).items():
            task, size = self._tasks[task_id], self._size(task_id)
            if size is not None:
                mask = self._mask(near, size).astype(np.float32)
                yield (
                    task_id,
                    drafting.regions([mask], (task.height, task.width), self._here.config),
                )

    @cached_property
    def _reach(self) -> float:
        """The longest gap at which these drafts were better than the model's, 0 for none."""
        scores = self._here.store.labels.draft_scores(self._here.id) if self._volumes else []
        both = [
            (score.gap, score.between_dice - score.dice)
            for score in scores
            if score.gap is not None and score.between_dice is not None
        ][-COMPARED:]
        gaps, gains = [gap for gap, _ in both], [gain for _, gain in both]
        return reach(gaps, gains, seed=self._here.options.seed)

    def _around(self, task_id: int, counts: Callable[[int], bool]) -> Neighbours | None:
        """Return the nearest slices that count, on both sides of a slice."""
        task = self._tasks[task_id]
        slices = self._volumes.get(task.group, [])
        if task.place is None or not slices:
            return None
        at = bisect_left(slices, (task.place, task_id))
        before = next((one for one in reversed(slices[:at]) if counts(one[1])), None)
        after = next((one for one in slices[at + 1 :] if counts(one[1])), None)
        if before is None or after is None:
            return None
        gap = after[0] - before[0]
        return Neighbours(before[1], after[1], gap, (task.place - before[0]) / gap)

    def _size(self, task_id: int) -> tuple[int, int] | None:
        """Return the working size of a slice; None while it is unknown."""
        task = self._tasks[task_id]
        longest = max(task.height, task.width)
        if not task.height or not task.width:
            return None
        scale = min(1.0, WORKING_SIZE / longest)
        return max(round(task.height * scale), 1), max(round(task.width * scale), 1)

    def _mask(self, near: Neighbours, size: tuple[int, int]) -> Mask:
        """Return the masks of a slice between its neighbours, shape (c, h, w)."""
        usable, learner = self._here.ledger.usable, self._here.learner
        before, after = (learner.mask(usable[end], size) for end in (near.before, near.after))
        return between(before, after, near.place)
