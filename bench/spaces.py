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
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from backend.experiments.intervals import CONFIDENCE, RESAMPLES, Interval, interval, over_pools
from bench.later_labels import told

RESULTS = Path(__file__).parent / "results"
MEASURES = ("dice_macro", "dice_worst_group", "recall")
DEFAULT = "efficientnet-lite0+normalised-pixels"  # the encoder of the arm that is the default

Values = NDArray[np.float64]


def read(path: Path, measure: str) -> tuple[Values, Values]:
    """Return a measure of the default and of the new arm, each by seed, shape (seeds,)."""
    found: dict[bool, dict[int, float]] = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row[measure]:  # a pool of one group has no worst group
                found[row["encoder"] == DEFAULT][int(row["seed"])] = float(row[measure])
    seeds = sorted(found[True].keys() & found[False].keys())
    default, new = (np.array([found[arm][seed] for seed in seeds]) for arm in (True, False))
    return default, new


def over_seeds(differences: list[Values]) -> Interval:
    """Return the mean over pools of the mean difference, and its bootstrap interval over seeds."""

    def mean(*pools: Values, axis: int) -> Values:
        means: Values = np.mean([pool.mean(axis=axis) for pool in pools], axis=0)
        return means

    limits = stats.bootstrap(
        differences, mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(mean(*differences, axis=0)), float(limits.low), float(limits.high)


def main(name: str) -> None:
    """Print each measure, in points."""
    for measure in MEASURES:
        differences = []
        for path in sorted(RESULTS.glob(f"{name}-*.csv")):
            default, new = read(path, measure)
            if not len(default):
                continue
            differences.append(new - default)
            alone = told(interval(list(new - default)))
            print(f"{path.stem}, {measure}: {default.mean():.3f}, {new.mean():.3f}, {alone}")
        as_they_are, drawn = over_seeds(differences), over_pools([list(of) for of in differences])
        print(f"mean over pools: {told(as_they_are)}; with pools drawn: {told(drawn)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
