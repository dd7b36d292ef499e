"""The groups of a mixed pool in the report: their scores, and the gap that a choice closes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backend.experiments import documents
from backend.experiments.intervals import Interval, difference, gap_closed
from backend.experiments.results import Results
from model.evaluation import MAIN, OTHERS

MACRO = f"{MAIN.name}_macro"
# What a step of a run on a pool measures, by its name in the record; the value is its title.
MEASURES = {
    MAIN.name: f"mean {MAIN.title}",
    MACRO: f"macro {MAIN.title}",
    f"{MAIN.name}_worst_group": "worst group",
    f"{MAIN.name}_worst_decile": "worst decile",
    **{f"{metric.name}_macro": f"macro {metric.title}" for metric in OTHERS},
    "recall": "group recall",
}
GAPS = (MAIN.name, MACRO)


@dataclass(frozen=True)
class GroupRow:
    """An arm at one count of labels; NaN for a value that cannot be computed.

    Attributes:
        means: Of each measure over the runs.
        differences: Of each measure to the baseline, with the limits of its interval.
        gaps: Share of the gap between baseline and all labels that is closed, of each of GAPS.
        groups: Mean of the main metric by group.
    """

    labels: int
    arm: str
    runs: int
    means: dict[str, float]
    differences: dict[str, Interval]
    gaps: dict[str, Interval]
    groups: dict[str, float]


def table(results: Results) -> list[GroupRow]:
    """Return one row for each count of labels and arm."""
    return [
        _row(results, step, arm) for step, _ in enumerate(results.labels) for arm in results.arms
    ]


def numbers(results: Results) -> dict[str, Any]:
    """Return the entries of results.json; none for a folder."""
    if not results.groups:
        return {}
    rows = [documents.json_value(asdict(row)) for row in table(results)]
    return {
        "groups": rows,
        "all_labels": {
            str(seed): {name: run["steps"][0][name] for name in (*MEASURES, "labels", "file")
                        if name in run["steps"][0]}
            for seed, run in results.all_labels.items()
        },
    }  # fmt: skip


def markdown(results: Results) -> str:
    """Return the section of the report; "" for a folder."""
    if not results.groups:
        return ""
    rows = table(results)
    return documents.render(
        "groups.md.j2",
        results=results,
        measures=titles(results),
        main=MAIN,
        rows=rows,
        held=_held(results),
        top={name: _mean(_of_all(results, name)) for name in GAPS},
        gaps=GAPS,
        number=number,
    )


def titles(results: Results) -> dict[str, str]:
    """Return the titles of the measures, with the unit of distances."""
    units = {f"{metric.name}_macro": metric.heading(results.unit) for metric in OTHERS}
    return {name: f"macro {units[name]}" if name in units else of for name, of in MEASURES.items()}


def number(name: str, *, signed: bool = False) -> str:
    """Return the pattern of a measure's numbers: distances have fewer decimals than shares."""
    distance = any(name == f"{metric.name}_macro" and metric.unit for metric in OTHERS)
    return f"%{'+' if signed else ''}.{2 if distance else 3}f"


def _row(results: Results, step: int, arm: str) -> GroupRow:
    values = {name: results.values(arm, step, name) for name in MEASURES}
    lower = {name: results.values(results.baseline, step, name) for name in MEASURES}
    compared = arm != results.baseline and any(lower.values())
    return GroupRow(
        labels=results.labels[step],
        arm=arm,
        runs=len(results.arms[arm]),
        means={name: _mean(of) for name, of in values.items()},
        differences={
            name: difference(of, lower[name])[0] for name, of in values.items() if compared
        },
        gaps={
            name: gap_closed(values[name], lower[name], _of_all(results, name))
            if compared
            else (math.nan,) * 3
            for name in GAPS
        },
        groups=dict(_groups(results, step, arm)),
    )


def _groups(results: Results, step: int, arm: str) -> Iterator[tuple[str, float]]:
    runs = [run["steps"][step]["groups"] for run in results.arms[arm].values()]
    for group in results.groups:
        scores = [of[group][MAIN.name] for of in runs if group in of]
        if scores:
            yield group, float(np.mean(scores))


def _held(results: Results) -> dict[str, int]:
    """Return the number of held-out scans of each group, in the first run."""
    first = next((run for runs in results.arms.values() for run in runs.values()), None)
    groups = first["steps"][0]["groups"] if first else {}
    return {name: of["scans"] for name, of in groups.items()}


def _of_all(results: Results, measure: str) -> dict[int, float]:
    return {seed: run["steps"][0][measure] for seed, run in results.all_labels.items()}


def _mean(values: dict[int, float]) -> float:
    return float(np.mean(list(values.values()))) if values else math.nan
