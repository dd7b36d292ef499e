"""The report of choices that were measured without training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from backend.experiments import documents
from backend.experiments.intervals import Interval, difference
from backend.storage import artifacts

Record = Mapping[str, Any]  # from selections.picks
RULE = ("encoder", "projection", "cold_start", "group_by")
MEASURES = ("recall", "lonely", "planted", "empty")


@dataclass(frozen=True)
class PoolPicks:
    """All choices from one pool.

    Attributes:
        title: Of the pool.
        labels: Counts of labels.
        baseline: The arm that the others are compared with.
        arms: Records of each arm by seed.
        failed: Errors by the name of the choice.
    """

    title: str
    labels: tuple[int, ...]
    baseline: str
    arms: Mapping[str, Mapping[int, Record]]
    failed: Mapping[str, str]

    def values(self, arm: str, step: int, measure: str) -> dict[int, float]:
        """Return a measure of an arm by seed; nothing where the pool does not tell it."""
        records = self.arms.get(arm, {})
        told = {seed: record["choices"][step][measure] for seed, record in records.items()}
        return {seed: value for seed, value in told.items() if value is not None}


@dataclass(frozen=True)
class Row:
    """An arm on a pool at one count of labels; NaN for a value that cannot be computed.

    Attributes:
        recall: Mean group recall over draws.
        difference: Of recall to the baseline, with the limits of its interval.
        lonely, planted, empty: Mean shares of the picks.
        overlap: Mean share of picks in common, over pairs of seeds that have the same pool.
    """

    pool: str
    arm: str
    labels: int
    draws: int
    recall: float
    difference: Interval
    lonely: float
    planted: float
    empty: float
    overlap: float


def write(finished: Sequence[PoolPicks], folder: Path) -> None:
    """Write selections.md, selections.csv and selections.json into a folder.

    Raises:
        StorageError: If the folder cannot be written.
    """
    rows = table(finished)
    documents.write_text(folder / "selections.md", markdown(finished, rows))
    documents.write_text(
        folder / "selections.csv", documents.csv_text(list(_lines(finished)), empty="pool")
    )
    numbers = [documents.json_value(asdict(row)) for row in rows]
    failed = {of.title: of.failed for of in finished if of.failed}
    artifacts.write_json(folder / "selections.json", {"table": numbers, "failed": failed})


def table(finished: Sequence[PoolPicks]) -> list[Row]:
    """Return one row for each pool, count of labels and arm."""
    return [
        _row(of, step, arm)
        for of in finished
        for step, _ in enumerate(of.labels)
        for arm in of.arms
    ]


def markdown(finished: Sequence[PoolPicks], rows: Sequence[Row]) -> str:
    """Return the report: group recall of all pools side by side, then a table for each pool."""
    recalls = {(row.pool, row.arm, row.labels): row.recall for row in rows}
    return documents.render(
        "selections.md.j2",
        pools=finished,
        labels=finished[0].labels,
        arms=list(dict.fromkeys(row.arm for row in rows)),
        recalls=recalls,
        grouped=not all(map(math.isnan, recalls.values())),
        missing=math.nan,
        rows=rows,
    )


def _row(of: PoolPicks, step: int, arm: str) -> Row:
    values = {name: of.values(arm, step, name) for name in MEASURES}
    lower = of.values(of.baseline, step, "recall") if arm != of.baseline else {}
    apart = difference(values["recall"], lower)[0] if lower and values["recall"] else None
    return Row(
        pool=of.title,
        arm=arm,
        labels=of.labels[step],
        draws=len(of.arms[arm]),
        difference=apart or (math.nan,) * 3,
        **{name: _mean(list(values[name].values())) for name in MEASURES},
        overlap=overlap(list(of.arms[arm].values()), step),
    )


def overlap(records: Sequence[Record], step: int) -> float:
    """Return the mean share of picks in common; NaN if no two draws have the same pool."""
    return _mean(
        [
            len({*one["choices"][step]["names"]} & {*other["choices"][step]["names"]})
            / one["choices"][step]["labels"]
            for one, other in combinations(records, 2)
            if one["pool"] == other["pool"]
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _lines(finished: Sequence[PoolPicks]) -> Iterator[dict[str, Any]]:
    for of in finished:
        for arm, records in of.arms.items():
            for seed, record in records.items():
                for choice in record["choices"]:
                    yield {
                        "pool": of.title,
                        "arm": arm,
                        **{name: record["arm"][name] for name in RULE},
                        "seed": seed,
                        "labels": choice["labels"],
                        **{name: choice[name] for name in MEASURES},
                        "chosen": " ".join(choice["names"]),
                    }
