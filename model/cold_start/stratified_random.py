"""The paper's clusters and shares, but scans drawn at random inside them.

A control: it tells what the number of clusters and the allocation contribute from what medoids
and farthest points do. Random draws that respect strata are hard to beat (nnActive,
arXiv 2511.19183).
"""

from __future__ import annotations

import numpy as np

from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.cold_start.walk import walk_on


def choose(pool: Pool) -> Choice:
    """Return random scans of each cluster by its share."""
    drawn = np.random.default_rng(pool.seed).permutation(len(pool.points))
    return walk_on(pool, pool.clustering, drawn)


STRATEGY = Strategy(
    choose,
    Words(
        opening="drawn at random from cluster {cluster} ({size} scans)",
        later="drawn at random from cluster {cluster}",
    ),
)
