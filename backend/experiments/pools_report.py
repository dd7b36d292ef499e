"""The report over several pools: the difference of each arm to the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.experiments import documents, figures, group_report
from backend.experiments.group_report import MACRO, MEASURES
from backend.experiments.intervals import Interval, over_pools, paired
from backend.experiments.results import Results
from backend.storage import artifacts


@dataclass(frozen=True)
class PoolsRow:
    """An arm at one count of labels.

    Attributes:
        pools: Mean of each measure over runs, by pool.
        differences: Of each measure to the baseline: mean over pools, and limits of its interval.
    """

    labels: int
    arm: str
    pools: dict[str, dict[str, float]]
    differences: dict[str, Interval]


def write(finished: Sequence[Results], folder: Path) -> None:
    """Write pools.md, pools.csv, pools.json and, if arms are compared, a picture into a folder.

    Args:
        finished: Results of the same plan, one for each pool.
        folder: Exists.

    Raises:
        StorageError: If the folder cannot be written.
    """
    rows = table(finished)
    documents.write_text(folder / "pools.md", markdown(finished, rows))
    documents.write_text(folder / "pools.csv", documents.csv_text(list(_lines(rows)), empty="arm"))
    overall = [_overall(rows, count) for count in finished[0].labels]
    if all(overall):
        drawn = figures.gains(finished, MACRO, MEASURES[MACRO], overall)
        figures.save(drawn, folder / "pools")
    artifacts.write_json(
        folder / "pools.json",
        {
            "settings": {results.title: results.settings for results in finished},
            "baseline": finished[0].baseline,
            "table": [documents.json_value(asdict(row)) for row in rows],
        },
    )


def table(finished: Sequence[Results]) -> list[PoolsRow]:
    """Return one row for each count of labels and arm that every pool has."""
    arms = [arm for arm in finished[0].arms if all(arm in results.arms for results in finished)]
    return [_row(finished, step, arm) for step, _ in enumerate(finished[0].labels) for arm in arms]


def markdown(finished: Sequence[Results], rows: Sequence[PoolsRow]) -> str:
    """Return the report as text."""
    return documents.render(
        "pools.md.j2",
        pools=[results.title for results in finished],
        labels=finished[0].labels,
        baseline=finished[0].baseline,
        measures=MEASURES,
        macro=MACRO,
        rows=rows,
        number=group_report.number,
    )


def _row(finished: Sequence[Results], step: int, arm: str) -> PoolsRow:
    baseline = finished[0].baseline
    differences = {
        name: over_pools(
            [
                paired(results.values(arm, step, name), results.values(baseline, step, name))
                for results in finished
            ]
        )
        for name in MEASURES
        if arm != baseline
    }
    pools = {
        results.title: {
            name: float(np.mean(list(results.values(arm, step, name).values())))
            for name in MEASURES
        }
        for results in finished
    }
    return PoolsRow(finished[0].labels[step], arm, pools, differences)


def _overall(rows: Sequence[PoolsRow], labels: int) -> dict[str, Interval]:
    """Return the differences over all pools that the picture shows, by arm."""
    return {
        row.arm: row.differences[MACRO] for row in rows if row.labels == labels and row.differences
    }


def _lines(rows: Sequence[PoolsRow]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for pool, means in row.pools.items():
            yield {"pool": pool, "labels": row.labels, "arm": row.arm, **means}
