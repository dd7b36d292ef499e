"""Expect the minutes of every waiting scan, for the option `by_minutes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.rounds.label_times import work_of
from backend.storage.ledger import Ledger
from backend.storage.records import QueueRecord
from model import expected_minutes, scoring
from model.expected_minutes import LEAST, Expectation, MaskSummary

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScanMinutes:
    """What is expected of the scans of the map.

    Attributes:
        drawn: What the models saw in each scan that is known, by task id.
        before: The same of each labelled scan, from before its label.
        expectation: How well minutes are predicted.
        minutes: Of each scan of the map, shape (n,), NaN for scans that nobody waits for; None if
            the order ignores minutes.
    """

    drawn: Mapping[int, MaskSummary]
    before: Mapping[int, MaskSummary]
    expectation: Expectation
    minutes: Floats | None

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says of all scans together."""
        before = {task: list(seen) for task, seen in self.before.items()}
        return {"before": before, "minutes_r2": self.expectation.r2}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return why the order ignores minutes; () if it does not."""
        if self.minutes is not None:
            return ()
        return (f"by_minutes: the order ignores minutes: {self._why}",)

    @property
    def _why(self) -> str:
        labels, r2 = self.expectation.labels, self.expectation.r2
        if labels < LEAST:
            return (
                f"{labels} of {LEAST} labels that this takes have a known time and a scan that a "
                "model had scored before"
            )
        if r2 is None:
            return f"the {labels} labels are of too few groups of scans, or all took equally long"
        return (
            f"what the model sees in a scan does not tell its minutes (R2 {r2:.2f} out of fold, "
            f"{labels} labels)"
        )

    def reason(self, row: int) -> str:
        """Return what a reason adds about the scan in this row of the map."""
        if self.minutes is None:
            return ""
        return f"; about {max(self.minutes[row], 0.1):.1f} min"

    def terms(self, task: int, row: int) -> dict[str, float | None]:
        """Return what the record says of a scan, which has a row on the map."""
        seen = self.drawn.get(task)
        return {
            "area": seen.area if seen else None,
            "regions": seen.regions if seen else None,
            "minutes": None if self.minutes is None else round(float(self.minutes[row]), 3),
        }


def expect(
    now: Ledger,
    last: QueueRecord,
    judged: Mapping[int, MaskSummary],
    ids: Sequence[int],
    coordinates: npt.NDArray[Any],
    wanted: npt.NDArray[np.bool_],
) -> ScanMinutes:
    """Return what is expected of the scans of the map.

    A wanted scan that no model has scored gets the mean of the nearest scans that have a value.

    Args:
        now: The ledger.
        last: The live queue, or an empty record.
        judged: What the model of this round saw in the scans that it scored.
        ids: The task id of each row of the map.
        coordinates: The map, shape (n, m).
        wanted: Which scans need minutes, shape (n,).
    """
    earlier = {task: seen for task, terms in last.scans.items() if (seen := _drawn(terms))}
    before = {task: MaskSummary(*seen) for task, seen in last.before.items()} | earlier
    before = {task: before[task] for task in now.usable if task in before}
    drawn = {task: seen for task, seen in {**earlier, **judged}.items() if seen.area is not None}
    expectation = _expectation(now, before, [drawn[i] for i in ids if i in drawn])
    known = np.full(len(ids), np.nan)
    if expectation.minutes is not None:
        known[[task in drawn for task in ids]] = expectation.minutes
    found = np.asarray(scoring.estimated(known, coordinates, wanted), np.float64)
    usable = not np.isnan(found[wanted]).any()
    return ScanMinutes(drawn, before, expectation, found if usable else None)


def _drawn(terms: Mapping[str, Any]) -> MaskSummary | None:
    """Return what a record says that the model saw in a scan; None if it says nothing."""
    if terms.get("area") is None or terms["entropy"] is None:
        return None
    return MaskSummary(terms["entropy"], terms["area"], terms["regions"])


def _expectation(
    now: Ledger, before: Mapping[int, MaskSummary], wanted: Sequence[MaskSummary]
) -> Expectation:
    timed = [label for task in before for label in now.usable[task] if label.seconds]
    return expected_minutes.expect(
        _table([before[label.task_id] for label in timed]),
        work_of(timed).capped(),
        np.array([now.groups[label.task_id] for label in timed], np.int64),
        _table(wanted),
    )


def _table(seen: Sequence[MaskSummary]) -> Floats:
    return np.array(seen, np.float64).reshape(-1, 3)
