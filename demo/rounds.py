"""A simulated annotator works through the queue; each round gives a row of a table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from backend.commands.quickstart.service import Backend, Status
from demo.annotator import Annotator, Task, drawn
from demo.scans import Scan
from model import evaluation

_COLUMNS = (
    ("round", 5),
    ("labels", 6),
    ("first in the queue", 24),
    ("model version", 32),
    ("Dice of the model", 17),
    ("Dice unlabelled", 15),
    ("seconds", 7),
)


@dataclass(frozen=True)
class Row:
    """One round: the labels, the new queue, and the time until it was published."""

    round: int
    labels: int
    head: str
    version: str
    quality: str  # validation Dice once scans are held out, prequential Dice before
    unlabelled_dice: float | None
    seconds: float


@dataclass
class Walk:
    """A project under way: its scans by task id and the tasks that have been labelled."""

    annotator: Annotator
    backend: Backend
    project: int
    scans: Mapping[int, Scan]
    labelled: set[int]

    def cold_start(self, started: float) -> Row:
        """The row of the queue before any label; its seconds count from `started`."""
        return self._row(0, started)

    def rounds(self, count: int, labels: int) -> Iterator[Row]:
        """Label so many scans a round, wait for the new queue, yield its row."""
        for number in range(1, count + 1):
            if not self._label(labels):
                return
            yield self._row(number, time.monotonic())

    def _label(self, labels: int) -> int:
        """Label so many scans; return how many. Scans without a known truth are skipped."""
        submitted = 0
        while submitted < labels and (task := self.annotator.next_task(self.project)):
            submitted += self._answer(task)
        return submitted

    def _answer(self, task: Task) -> bool:
        mask = self.scans[task["id"]].mask
        if mask is None:
            self.annotator.skip(task)
            return False
        self.annotator.submit(task, mask)
        self.labelled.add(task["id"])
        return True

    def _row(self, number: int, started: float) -> Row:
        status = self.backend.wait_for_queue(self.project, labels=len(self.labelled))
        seconds = time.monotonic() - started
        head = self.scans[status.next_tasks[0]].name if status.next_tasks else "-"
        version = status.live_version or "-"
        dice = self._unlabelled_dice(version)
        return Row(number, len(self.labelled), head, version, _quality(status), dice, seconds)

    def _unlabelled_dice(self, version: str) -> float | None:
        predictions = self.annotator.predictions(self.project, version)
        drafts = {prediction["task"]: prediction["result"] for prediction in predictions}
        truths = {task: scan for task, scan in self.scans.items() if task not in self.labelled}
        return mean_dice(drafts, truths)


def mean_dice(
    drafts: Mapping[int, list[dict[str, object]]], scans: Mapping[int, Scan]
) -> float | None:
    """Mean Dice of the drafts against the truth of these scans; None when no draft is out.

    Args:
        drafts: The published result of each task; one without regions is an empty mask.
        scans: The scans to count, by task.
    """
    if not any(drafts.values()):
        return None
    values = []
    for task in drafts.keys() & scans.keys():
        truth = scans[task].mask
        if truth is not None:
            draft = drawn(drafts[task])
            mask = np.zeros_like(truth) if draft is None else draft
            values.append(evaluation.scan_dice([mask], [truth]))
    return float(np.mean(values)) if values else None


def header() -> str:
    """The table's first line."""
    return _line(tuple(name for name, _ in _COLUMNS))


def line(row: Row) -> str:
    """A row as a line of the table."""
    dice = "-" if row.unlabelled_dice is None else f"{row.unlabelled_dice:.3f}"
    return _line(
        (
            str(row.round),
            str(row.labels),
            row.head,
            row.version,
            row.quality,
            dice,
            f"{row.seconds:.1f}",
        )
    )


def _line(cells: tuple[str, ...]) -> str:
    padded = [cell[:width].ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)]
    return "  ".join(padded).rstrip()


def _quality(status: Status) -> str:
    if status.validation_dice is not None:
        return f"{status.validation_dice:.3f} validation"
    if status.prequential_dice is not None:
        return f"{status.prequential_dice:.3f} prequential"
    return "-"
