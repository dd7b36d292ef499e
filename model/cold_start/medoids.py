"""The paper's rule: medoids of the clusters by silhouette, then farthest points inside each.

Source: arXiv 2601.18532, section 3.1. Where the map has no clusters, it is one, and the rule
becomes a farthest-point traversal from its medoid.
"""

from __future__ import annotations

import numpy as np

from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.cold_start.walk import Walk


def choose(pool: Pool) -> Choice:
    """Return the order by the paper's rule; it goes on over the whole pool."""
    walk = Walk(pool, pool.clustering)
    greedy = np.array([walk.step() for _ in pool.steps], int)
    return Choice(np.concatenate([greedy, walk.rest()]), pool.clustering)


STRATEGY = Strategy(
    choose,
    Words(
        opening="medoid of cluster {cluster} ({size} scans)",
        later="farthest from the scans chosen in cluster {cluster}",
        stand_in="nearest to the medoid of cluster {cluster} in an untouched group",
    ),
)
