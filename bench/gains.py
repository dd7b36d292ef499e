"""What the choice of scans gains on each pool: the picture and the figures of docs/benchmarks.md.

    .venv/bin/python -m bench.gains docs/images/gains.png

reads bench/results/choices-trained-POOL.csv, which `simulate` wrote, and trains nothing. It prints
means, the two primary comparisons of the rule of decision, the comparison on uniform pools, and
that on mixed pools with the training that inverts negatives.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backend.experiments import figures
from backend.experiments.intervals import CONFIDENCE, Interval, over_pools, paired
from backend.experiments.results import Results

RESULTS = Path(__file__).parent / "results"
MEASURE, WORST = "dice_macro", "dice_worst_group"
LABELS = 10
HALF = 1 - (1 - CONFIDENCE) / 2
RANDOM, PAPER, KMEANS, CANDIDATE = (
    "random",
    "the paper's rule (medoids on t-SNE)",
    "kmeans",
    "tempered",
)
ARMS = {
    "random": RANDOM,
    "efficientnet-lite0, tsne, medoids": PAPER,
    "efficientnet-lite0, none, kmeans": KMEANS,
    "efficientnet-lite0+normalised-pixels, none, tempered": CANDIDATE,
    "efficientnet-lite0+normalised-pixels, tempered": CANDIDATE,
    "tempered": CANDIDATE,
}
MIXED = ("cxr-mix", "nuclei", "acdc-mix", "hippocampus-stacks", "wingspan130")
UNIFORM = ("montgomery", "shenzhen300")
# Run again after training learned to invert negatives: on the other pools it changes nothing.
TRAINED_AGAIN = ("cxr-mix",)


def read(pool: str) -> Results:
    """Return the runs of a pool from its CSV file, with the measures alone."""
    arms: dict[str, dict[int, dict[str, list[dict[str, float]]]]] = defaultdict(dict)
    with (RESULTS / f"choices-trained-{pool}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            step = {name: float(row[name]) for name in (MEASURE, WORST)}
            arms[ARMS[row["arm"]]][int(row["seed"])] = {"steps": [step]}
    ordered = {name: arms[name] for name in dict.fromkeys(ARMS.values()) if name in arms}
    return Results(
        title=pool.removesuffix("-again"), settings={}, unit="", labels=(LABELS,), arms=ordered,
        baseline=RANDOM, failed={}, notes=(),
    )  # fmt: skip


def gain(
    pools: Sequence[Results],
    arm: str,
    other: str,
    measure: str = MEASURE,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean difference of two arms over pools, paired by seed, with its interval."""
    return over_pools(
        [paired(pool.values(arm, 0, measure), pool.values(other, 0, measure)) for pool in pools],
        confidence,
    )


def tell(
    title: str,
    pools: Sequence[Results],
    other: str,
    measure: str = MEASURE,
    confidence: float = CONFIDENCE,
) -> None:
    """Print the difference of the candidate to another arm."""
    middle, low, high = gain(pools, CANDIDATE, other, measure, confidence)
    print(f"{title}, {measure}: {CANDIDATE} minus {other}: {middle:+.4f}")
    print(f"    {confidence:.1%} interval {low:+.4f} to {high:+.4f}")


def main(picture: Path) -> None:
    """Print the figures, and draw the picture."""
    mixed, uniform = list(map(read, MIXED)), list(map(read, UNIFORM))
    for pool in [*mixed, *uniform]:
        for arm in pool.arms:
            values = list(pool.values(arm, 0, MEASURE).values())
            print(f"{pool.title}: {arm}: {np.mean(values):.3f}, sd {np.std(values, ddof=1):.3f}")
    for other in (RANDOM, PAPER, KMEANS):
        tell("mixed pools", mixed, other)
        tell("mixed pools", mixed, other, WORST)
    for other in (RANDOM, PAPER):  # Holm: the first of two comparisons takes half of the error
        tell("mixed pools", mixed, other, confidence=HALF)
    tell("uniform pools, new seeds", [read(f"{pool}-again") for pool in UNIFORM], RANDOM)
    today = [read(f"{pool}-again" if pool in TRAINED_AGAIN else pool) for pool in MIXED]
    for measure in (MEASURE, WORST):
        tell("mixed pools, today's training", today, RANDOM, measure)
    everywhere = [*mixed, *uniform]
    overall = {arm: gain(everywhere, arm, RANDOM) for arm in (PAPER, KMEANS, CANDIDATE)}
    drawn = figures.gains(everywhere, MEASURE, "macro Dice", [overall])
    drawn.savefig(picture, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
