"""Time a ranking: python -m bench.acquisition --candidates 200000 --batch 100

Points and uncertainties are drawn uniformly; 1,000 more scans are labelled. The naive baseline is
the paper's rule in plain code: for every pick it computes all distances to all chosen scans again.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from bench.memory import Peak
from model import acquisition
from model.acquisition.strategy import scaled

Floats = NDArray[np.float64]

LABELLED = 1_000
ALPHA = 0.3


def naive(uncertainty: Floats, points: Floats, chosen: Floats, batch: int) -> list[int]:
    """Return the paper's batch, computing everything again for every pick."""
    picks: list[int] = []
    entropy = scaled(uncertainty)
    for _ in range(batch):
        centres = np.concatenate([chosen, points[picks]])
        nearest = np.min([cdist(points, centre[None])[:, 0] for centre in centres], axis=0)
        utility = ALPHA * scaled(np.delete(nearest, picks)) + (1 - ALPHA) * np.delete(
            entropy, picks
        )
        picks.append(int(np.delete(np.arange(len(points)), picks)[utility.argmax()]))
    return picks


def main() -> None:
    """Print a row for each strategy and one for the baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--candidates", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--naive-batch", type=int, default=5, help="picks of the baseline")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    size = asked.candidates + LABELLED
    points, uncertainty = rng.random((size, 2)), rng.random(size)
    labelled = np.arange(size) >= asked.candidates
    print(f"{asked.candidates:,} candidates, {LABELLED:,} labelled, batch of {asked.batch}")
    print("| strategy | seconds | processor seconds | peak GB |")
    print("|---|---|---|---|")
    for name in acquisition.STRATEGIES:
        with Peak() as peak:
            started, worked = time.perf_counter(), time.process_time()
            ranking = acquisition.rank(
                uncertainty, points, labelled, strategy=name, batch=asked.batch, alpha=ALPHA
            )
            seconds, work = time.perf_counter() - started, time.process_time() - worked
        print(f"| {name} | {seconds:.2f} | {work:.2f} | {peak.bytes / 1e9:.2f} |", flush=True)
        if name == "entropy-diversity":
            paper = ranking.order[: asked.naive_batch].tolist()
    started = time.perf_counter()
    picks = naive(uncertainty[~labelled], points[~labelled], points[labelled], asked.naive_batch)
    each = (time.perf_counter() - started) / asked.naive_batch
    assert picks == paper, "the baseline picks other scans"
    said = f"naive entropy-diversity, {asked.naive_batch} picks scaled to the batch"
    print(f"| {said} | {each * asked.batch:.1f} | | |")


if __name__ == "__main__":
    main()
