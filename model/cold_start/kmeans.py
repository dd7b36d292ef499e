"""Make as many clusters as the budget, and choose the scan nearest to the centre of each.

Source: MedCAL-Bench (arXiv 2508.03441), where this rule, listed as ALPS, does best for
segmentation.
"""

from __future__ import annotations

import numpy as np

from model.clustering import centroids, describe, partition
from model.cold_start.strategy import FARTHEST, Choice, Pool, Strategy, Words
from model.cold_start.walk import represent


def choose(pool: Pool) -> Choice:
    """Return a scan of each cluster, largest first, then the rest, farthest from these first."""
    clusters = partition(pool.points, pool.budget, seed=pool.seed)
    found = describe(pool.points, clusters, seed=pool.seed)
    centres = centroids(pool.points, clusters)[clusters] if found.k else pool.points
    nearness = -np.linalg.norm(pool.points - centres, axis=1)
    return represent(pool, found, nearness)


STRATEGY = Strategy(
    choose,
    Words(opening="nearest to the centre of cluster {cluster} ({size} scans)", later=FARTHEST),
)
