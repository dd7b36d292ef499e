"""Draw scans at random from the paper's clusters, by the paper's shares.

A control: it separates the effect of clusters and shares from the effect of medoids and farthest
points. Stratified random draws are hard to beat (nnActive, arXiv 2511.19183).
"""

from __future__ import annotations

import numpy as np

from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.cold_start.walk import walk_on


def choose(pool: Pool) -> Choice:
    """Return scans drawn at random from each cluster by its share."""
    drawn = np.random.default_rng(pool.seed).permutation(len(pool.points))
    return walk_on(pool, pool.clustering, drawn)


STRATEGY = Strategy(
    choose,
    Words(
        opening="drawn at random from cluster {cluster} ({size} scans)",
        later="drawn at random from cluster {cluster}",
    ),
)
