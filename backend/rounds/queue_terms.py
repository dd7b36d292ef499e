"""The terms of a queue's scans, as a round records them. Columns first: a pool may be large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.rounds.expected_minutes import ScanMinutes
from backend.storage.records import Terms
from model.active_learning import Decision

Array = npt.NDArray[Any]


def terms(
    decision: Decision,
    ids: Sequence[int],
    uncertainty: Array,
    known: Mapping[int, tuple[float, int]],
    by_row: Mapping[str, Array | None],
    expected: ScanMinutes | None,
) -> dict[int, Terms]:
    """Return the terms of each ranked scan, by task id, best first.

    Args:
        decision: About the queue.
        ids: The task id of each row of the map.
        uncertainty: Of each row, shape (n,); NaN if it is unknown.
        known: The uncertainty that a model gave a scan and the round of that, by task id.
        by_row: More terms by name, shape (n,); None for a term that no scan has.
        expected: The minutes of the scans; None without the option `by_minutes`.
    """
    order = decision.order
    ranked = [ids[row] for row in order.tolist()]
    columns: dict[str, list[Any]] = {
        "cluster": decision.clusters[order].tolist(),
        "entropy": rounded(uncertainty[order]),
        "scored_in": [known[task][1] if task in known else None for task in ranked],
        **{name: _plain(values[order]) for name, values in by_row.items() if values is not None},
        "uncertainty": rounded(decision.uncertainty),
        "diversity": rounded(decision.diversity),
        "utility": rounded(decision.utility),
        "control": decision.control.tolist(),
    }
    rows = zip(*columns.values(), strict=True)
    scans = {
        task: dict(zip(columns, row, strict=True)) for task, row in zip(ranked, rows, strict=True)
    }
    if expected is not None:
        for task, row in zip(ranked, order.tolist(), strict=True):
            scans[task] |= expected.terms(task, row)
    return scans


def _plain(values: Array) -> list[Any]:
    return rounded(values) if values.dtype.kind == "f" else list(values.tolist())


def rounded(values: Array) -> list[float | None]:
    """Return values with 6 digits; JSON has no NaN: a term that does not exist is null."""
    found = np.round(values.astype(np.float64), 6).tolist()
    return [None if math.isnan(value) else value for value in found]


def rounded_one(value: float) -> float | None:
    """Return a value as `rounded` does."""
    [found] = rounded(np.array([value]))
    return found
