"""The paper's rule: medoids of the clusters by silhouette, then farthest points inside each.

Source: arXiv 2601.18532, section 3.1. For a map without clusters the paper has no rule. Farthest
points of the whole map are mostly outliers (bench/modes.py), so `coverage` chooses there.
"""

from __future__ import annotations

from dataclasses import replace

from model.cold_start import coverage
from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.cold_start.walk import walk_on


def choose(pool: Pool) -> Choice:
    """Return the order by the paper's rule, continued over the whole pool."""
    if pool.clustering.collapsed:
        return replace(coverage.choose(pool), words=coverage.STRATEGY.words)
    return walk_on(pool, pool.clustering)


STRATEGY = Strategy(
    choose,
    Words(
        opening="medoid of cluster {cluster} ({size} scans)",
        later="farthest from the scans chosen in cluster {cluster}",
        stand_in="nearest to the medoid of cluster {cluster} in an untouched group",
    ),
)
