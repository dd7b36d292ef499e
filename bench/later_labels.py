"""Which rule should choose the labels after the first ten: the figures of the decision.

    .venv/bin/python -m bench.later_labels

reads bench/results/acquisition-on-POOL.csv, which `simulate` wrote, and trains nothing. Question,
ruler and rule of decision stand in docs/benchmarks/selection.md. It prints means, differences on
each pool (Student's t, paired by seed) and over the pools (bootstrap over pools and seeds).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from backend.experiments.intervals import Interval, interval, over_pools, paired

RESULTS = Path(__file__).parent / "results"
POOLS = ("cxr-mix", "nuclei", "acdc-mix")
ARMS = ("tempered", "entropy-diversity", "random")
MACRO = "dice_macro"
MEASURES = (MACRO, "dice_worst_group", "recall")
LATER = (20, 30)

Values = dict[str, dict[int, float]]  # by arm and seed


def read(pool: str, measure: str, labels: Sequence[int]) -> Values:
    """Return the mean of a measure over counts of labels."""
    rows: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (RESULTS / f"acquisition-on-{pool}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if int(row["labels"]) in labels:
                rows[row["acquisition"]][int(row["seed"])].append(float(row[measure]))
    return {
        arm: {seed: float(np.mean(found)) for seed, found in of_arm.items()}
        for arm, of_arm in rows.items()
    }


def told(difference: Interval) -> str:
    """Return a difference with its interval, in points."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in difference))


def tell(measure: str, labels: Sequence[int]) -> None:
    """Print the means of the arms, and the difference of each two of them."""
    pools = {pool: read(pool, measure, labels) for pool in POOLS}
    print(f"\n{measure}, {' and '.join(map(str, labels))} labels")
    for pool, values in pools.items():
        means = ", ".join(f"{arm} {np.mean([*values[arm].values()]):.3f}" for arm in ARMS)
        print(f"{pool}: {means} ({len(values[ARMS[0]])} seeds)")
    for one, other in combinations(ARMS, 2):
        differences = [paired(values[one], values[other]) for values in pools.values()]
        alone = "; ".join(
            f"{pool} {told(interval(of))}" for pool, of in zip(pools, differences, strict=True)
        )
        print(f"{one} minus {other}: {told(over_pools(differences))} over the pools; {alone}")


def main() -> None:
    """Print the primary measure, then the others."""
    tell(MACRO, LATER)
    for measure in MEASURES:
        for labels in LATER:
            tell(measure, [labels])


if __name__ == "__main__":
    main()
