"""The control that every strategy has to beat: scans drawn at random."""

from __future__ import annotations

import numpy as np

from model.cold_start.strategy import Choice, Pool, Strategy, Words


def choose(pool: Pool) -> Choice:
    """Return a random order that depends only on the seed, not on the labels."""
    drawn = np.random.default_rng(pool.seed).permutation(len(pool.points))
    order = pool.turns().first(drawn[~pool.labelled[drawn]])
    return Choice(order, len(order), pool.clustering)


STRATEGY = Strategy(
    choose,
    Words(opening="drawn at random", later="drawn at random"),
)
