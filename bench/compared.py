"""Measure what a drawn part of a very large pool costs in coverage: python -m bench.compared.

Embeddings around 500 phantoms, as in `bench.sizing`. The cold start `tempered` picks 1,000 scans
twice: comparing all scans, and comparing the drawn ones alone (`kernels.COMPARED`). For both the
benchmark prints the processor seconds, and the tempered share of the pool that the first picks
cover. A choice sees a sample of 2,000 scans, the first column; the others are samples that it did
not see.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.options import ProjectOptions
from bench.large_pool import embeddings_of
from model import clustering, kernels, projection
from model.cold_start import tempered
from model.cold_start.strategy import Pool
from model.kernels import Coverage

Array = npt.NDArray[Any]

SCANS = 300_000
BUDGET = 10
PICKS = (10, 100, 300, 1_000)
SAMPLES = (0, 1, 2)  # seeds; the choice sees the first


def main() -> None:
    """Print a block for both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scans", nargs="?", type=int, default=SCANS)
    points = placed(parser.parse_args().scans)
    for compared in (len(points), kernels.COMPARED):
        print(f"of {len(points)} scans, {compared} are compared:", flush=True)
        measure(points, compared)


def placed(scans: int) -> Array:
    """Return the map of so many scans, shape (n, m)."""
    embeddings = embeddings_of(range(scans), np.random.default_rng(0))
    fitted = projection.fit(embeddings, method=ProjectOptions().projection)
    return fitted.coordinates.astype(np.float64)


def measure(points: Array, compared: int) -> None:
    """Print the seconds and the coverage of a choice among so many scans."""
    kernels.COMPARED = compared
    nobody = np.zeros(len(points), bool)
    known = clustering.describe(points, np.zeros(len(points), int))  # the choice does not read it
    began = time.process_time()
    choice = tempered.choose(Pool(points, BUDGET, nobody, np.arange(len(points)), 0, known))
    print(f"  {time.process_time() - began:.1f} processor s")
    for picks in PICKS:
        chosen = points[choice.order[:picks]]
        shares = [covered(points, chosen, choice.width, seed) for seed in SAMPLES]
        print(f"  {picks} picks cover {shares}", flush=True)


def covered(points: Array, chosen: Array, width: float, seed: int) -> float:
    """Return the share of the pool that scans cover, measured on the sample of a seed."""
    coverage = Coverage(points, width, seed=seed)
    coverage.temper()
    coverage.cover(chosen)
    return round(coverage.share, 4)


if __name__ == "__main__":
    main()
