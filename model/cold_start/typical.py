"""Make as many clusters as the budget, and choose the scan in the densest place of each.

Source: Hacohen, Dekel & Weinshall 2022, "Active Learning on a Budget" (TypiClust,
arXiv 2202.02794): typicality is the inverse of the mean distance to the 20 nearest neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from model.clustering import describe, partition
from model.cold_start.strategy import FARTHEST, Choice, Pool, Strategy, Words
from model.cold_start.walk import represent
from model.pool import sample

Array = npt.NDArray[Any]

NEIGHBOURS = 20


def choose(pool: Pool) -> Choice:
    """Return each cluster's most typical scan, largest first, then the rest, farthest first."""
    found = describe(
        pool.points, partition(pool.points, pool.budget, seed=pool.seed), seed=pool.seed
    )
    return represent(pool, found, -_isolation(pool.points, pool.seed))


def _isolation(points: Array, seed: int) -> Array:
    """Return the mean distance to the 20 nearest scans, shape (n,); large pools use a sample."""
    rows = sample(np.arange(len(points)), seed)
    count = min(NEIGHBOURS, len(rows) - 1)
    if count < 1:
        return np.zeros(len(points))
    distances = NearestNeighbors(n_neighbors=count + 1).fit(points[rows]).kneighbors(points)[0]
    # A scan of the sample is its own nearest neighbour; other scans have one neighbour too many.
    distances[rows, :-1] = distances[rows, 1:]
    mean: Array = distances[:, :-1].mean(axis=1)
    return mean


STRATEGY = Strategy(
    choose,
    Words(opening="most typical of cluster {cluster} ({size} scans)", later=FARTHEST),
)
