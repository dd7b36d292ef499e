"""The report of an experiment: text and tables, each number with its interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.experiments import documents, figures, group_report, volume_scores
from backend.experiments.figures import Attention, Map
from backend.experiments.intervals import difference
from backend.experiments.results import Results, Run
from backend.storage import artifacts
from model.evaluation import MAIN, METRICS, OTHERS


@dataclass(frozen=True)
class Row:
    """An arm at one count of labels; NaN for a value that cannot be computed.

    Attributes:
        others: Means of the metrics other than Dice, by name.
        volumes: Means over held-out volumes of all metrics, as `volume_` and the name; none if the
            scans are no slices.
    """

    labels: int
    arm: str
    runs: int
    dice: float
    dice_sd: float
    worst: float
    others: dict[str, float]
    volumes: dict[str, float]
    difference: float
    low: float
    high: float
    test: str
    wins: int
    pairs: int


def write(
    results: Results, maps: Sequence[Map], attention: Iterable[Attention], folder: Path
) -> None:
    """Write report.md, results.csv, results.json and the pictures into a folder.

    Raises:
        StorageError: If the folder cannot be written.
    """
    rows = table(results)
    documents.write_text(folder / "report.md", markdown(results, rows, maps))
    documents.write_text(folder / "results.csv", steps_csv(results))
    numbers = [documents.json_value(_flat(row)) for row in rows]
    artifacts.write_json(
        folder / "results.json",
        {
            "settings": results.settings,
            **{f"{metric.name}_unit": results.unit for metric in METRICS.values() if metric.unit},
            "baseline": results.baseline,
            "table": numbers,
            "runs": {
                arm: [run["file"] for run in runs.values()] for arm, runs in results.arms.items()
            },
            "failed": results.failed,
            "notes": results.notes,
            **group_report.numbers(results),
        },
    )
    if results.arms:
        figures.save(figures.curves(results), folder / "learning-curves")
    for map_ in maps:
        figures.save(figures.picture(map_, list(results.arms)), folder / map_.file)
    for look in attention:
        figures.save(figures.gates(look), folder / look.file)


def table(results: Results) -> list[Row]:
    """Return one row for each count of labels and arm."""
    return [
        _row(results, step, arm) for step, _ in enumerate(results.labels) for arm in results.arms
    ]


def markdown(results: Results, rows: Sequence[Row], maps: Sequence[Map] = ()) -> str:
    """Return the report: a table for each count of labels, the meaning of its numbers, pictures."""
    return documents.render(
        "report.md.j2",
        results=results,
        main=MAIN,
        others=OTHERS,
        by_volume=volume_scores.BY_METRIC,
        metrics=METRICS,
        measured=" and ".join(metric.heading(f"in {results.unit}") for metric in METRICS.values()),
        settings=[f"`{name}` {value}" for name, value in results.settings.items()],
        rows=rows,
        training=[training_sd(results, step) for step, _ in enumerate(results.labels)],
        warnings=list(_warnings(results)),
        maps=maps,
        groups=group_report.markdown(results),
    )


def steps_csv(results: Results) -> str:
    """Return a table with one line for each run and step."""
    return documents.csv_text(list(_steps(results)), empty="arm")


def _row(results: Results, step: int, arm: str) -> Row:
    dice = results.values(arm, step, MAIN.name)
    theirs = results.values(results.baseline, step, MAIN.name) if arm != results.baseline else {}
    shared = dice.keys() & theirs.keys()
    apart = difference(results.independent(dice), results.independent(theirs)) if theirs else None
    (middle, low, high), made = apart or ((math.nan,) * 3, "")
    return Row(
        labels=results.labels[step],
        arm=arm,
        runs=len(dice),
        dice=float(np.mean(list(dice.values()))),
        dice_sd=float(np.std(list(dice.values()), ddof=1)) if len(dice) > 1 else math.nan,
        worst=float(np.mean(list(results.values(arm, step, "worst").values()))),
        others={
            metric.name: float(np.mean(list(results.values(arm, step, metric.name).values())))
            for metric in OTHERS
        },
        volumes=_of_volumes(results, step, arm),
        difference=middle,
        low=low,
        high=high,
        test=made,
        wins=sum(MAIN.better(dice[seed], theirs[seed]) for seed in shared),
        pairs=len(shared),
    )


def _flat(row: Row) -> dict[str, object]:
    """Return a row in the format of results.json, with every metric on the same level."""
    fields = asdict(row)
    others, of_volumes = fields.pop("others"), fields.pop("volumes")
    return {**fields, **others, **of_volumes}


def _of_volumes(results: Results, step: int, arm: str) -> dict[str, float]:
    """Return the means over volumes of the runs that have them: earlier releases had none."""
    steps = [run["steps"][step] for run in results.arms[arm].values()]
    return {
        name: float(np.mean([told[name] for told in steps if name in told]))
        for name in volume_scores.BY_METRIC.values()
        if any(name in told for told in steps)
    }


def training_sd(results: Results, step: int) -> tuple[float, int, int]:
    """Return the standard deviation of Dice between networks trained on the same scans.

    Returns:
        The standard deviation pooled over all choices of scans (NaN with one network per choice),
        the number of choices, and the number of networks for each.
    """
    made = {
        (seed, _chosen(run, step)): run["steps"][step]["dice_by_network"]
        for runs in results.arms.values()
        for seed, run in runs.items()
    }  # arms with the same choice share their networks
    networks = list(made.values())
    if not networks or len(networks[0]) < 2:
        return math.nan, len(networks), 1
    pooled = math.sqrt(np.mean([np.var(scores, ddof=1) for scores in networks]))
    return pooled, len(networks), len(networks[0])


def _chosen(run: Run, step: int) -> frozenset[str]:
    return frozenset(name for past in run["steps"][: step + 1] for name in past["names"])


def _warnings(results: Results) -> Iterator[str]:
    """Yield the number of runs of each arm with each kind of warning; run files hold the texts."""
    for arm, runs in results.arms.items():
        kinds = Counter(kind for run in runs.values() for kind in _kinds(run))
        for kind, number in sorted(kinds.items()):
            yield f"{arm}: {kind} in {number} of {len(runs)}"


def _kinds(run: Run) -> set[str]:
    return {text.partition(":")[0] for step in run["steps"] for text in step["warnings"]}


def _steps(results: Results) -> Iterator[dict[str, Any]]:
    all_steps = [
        step for runs in results.arms.values() for run in runs.values() for step in run["steps"]
    ]
    optional = [
        name
        for name in (*group_report.MEASURES, *volume_scores.BY_METRIC.values())
        if any(name in step for step in all_steps)
    ]
    for arm, runs in results.arms.items():
        for seed, run in runs.items():
            for step in run["steps"]:
                by_label = {
                    f"{measure}_{label}": value
                    for measure in METRICS
                    for label, value in step[f"{measure}_by_label"].items()
                }
                scores = (MAIN.name, "worst", *(metric.name for metric in OTHERS))
                told = ("labels", "phase", *scores, "seconds", "k", "silhouette")
                yield {
                    "arm": arm,
                    **run["arm"],
                    "seed": seed,
                    **{name: step[name] for name in told},
                    **{name: step.get(name) for name in optional},
                    "alpha_used": step["alpha"],
                    **by_label,
                    "dice_by_network": " ".join(f"{dice:.4f}" for dice in step["dice_by_network"]),
                    "chosen": " ".join(step["names"]),
                    "file": run["file"],
                }
