"""Choose one by one the scan that adds most to a smooth coverage of the pool.

Source: Bae, Noh & Sutherland 2024 (MaxHerding, arXiv 2407.12212). They fix the kernel's bandwidth
for normalised features; here it follows from the map and the budget (`kernels.bandwidth`).
"""

from __future__ import annotations

import numpy as np

from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.kernels import Coverage, Herding, bandwidth

SENTENCE = "covers most scans that no earlier scan covers"


def choose(pool: Pool) -> Choice:
    """Return the greedy cover, then the rest by distance to the cover, farthest first."""
    return cover_greedily(pool, coverage_of(pool))


def coverage_of(pool: Pool) -> Coverage:
    """Return the coverage of a pool by no scan, with a kernel for the budget."""
    width = bandwidth(pool.points, pool.budget, seed=pool.seed)
    return Coverage(pool.points, width, seed=pool.seed)


def cover_greedily(pool: Pool, coverage: Coverage) -> Choice:
    """Return the scans that add most to a coverage, then the rest, farthest from these first."""
    coverage.cover(pool.points[pool.labelled])
    herding = Herding(pool.points, coverage, seed=pool.seed)
    turns, picks = pool.turns(), []
    for _ in pool.steps:
        row = herding.best(turns.allowed)
        herding.choose(row)
        turns.take(row)
        picks.append(row)
    chosen = np.array(picks, int)
    order = np.concatenate([chosen, pool.rest(chosen, turns)])
    return Choice(order, len(chosen), pool.clustering, width=coverage.width)


STRATEGY = Strategy(
    choose,
    Words(opening=SENTENCE, later=SENTENCE),
)
