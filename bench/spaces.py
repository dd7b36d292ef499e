"""In which space the cold start should measure distances: the figures of the decision.

    .venv/bin/python -m bench.spaces lengths-kept
    .venv/bin/python -m bench.spaces kinds

reads bench/results/NAME-POOL.csv, which `simulate` wrote, and trains nothing. Question, ruler and
rule of decision stand in docs/benchmarks/selection.md. It prints the means of the default and of
the new arm, and their differences: on each pool (Student's t, paired by seed), over the pools with
the pools as they are (bootstrap over seeds), and over pools that are drawn too.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from backend.experiments.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    interval,
    over_pools,
    paired,
)
from bench.later_labels import RESULTS, told

MEASURES = ("dice_macro", "dice_worst_group", "recall")
DEFAULT = "efficientnet-lite0+normalised-pixels"  # the encoder of the arm that is the default


def read(path: Path, measure: str) -> tuple[dict[int, float], dict[int, float]]:
    """Return a measure of the default and of the new arm, each by seed."""
    default, new = dict[int, float](), dict[int, float]()
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            arm = default if row["encoder"] == DEFAULT else new
            arm[int(row["seed"])] = float(row[measure])
    return default, new


def over_seeds(differences: list[list[float]]) -> Interval:
    """Return the mean over pools of the mean difference, and its bootstrap interval over seeds."""

    def mean(*pools: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        means: NDArray[np.float64] = np.mean([pool.mean(axis=axis) for pool in pools], axis=0)
        return means

    limits = stats.bootstrap(
        differences, mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(mean(*map(np.asarray, differences), axis=0)), float(limits.low), float(limits.high)


def main(name: str) -> None:
    """Print each measure, in points."""
    for measure in MEASURES:
        differences = []
        for path in sorted(RESULTS.glob(f"{name}-*.csv")):
            default, new = read(path, measure)
            differences.append(paired(new, default))
            means = ", ".join(f"{np.mean([*arm.values()]):.3f}" for arm in (default, new))
            print(f"{path.stem}, {measure}: {means}, {told(interval(differences[-1]))}")
        as_they_are, drawn = over_seeds(differences), over_pools(differences)
        print(f"mean over pools: {told(as_they_are)}; with pools drawn: {told(drawn)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
