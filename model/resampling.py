"""Means with intervals by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 2_000
MANY = 500  # values; the mean of more is taken as normal, which costs no time


class Interval(NamedTuple):
    """A value with the limits of its interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the interval of the value times a positive factor."""
        return Interval(*(factor * limit for limit in self))


def mean(
    values: Sequence[float] | Floats, *, seed: int = 0, confidence: float = CONFIDENCE
) -> Interval | None:
    """Return the mean of independent values with its interval; None for fewer than two."""
    known = np.asarray(values, np.float64)
    if known.size < 2:
        return None
    return around(float(known.mean()), means(known, np.random.default_rng(seed)), confidence)


def ratio(over: Floats, under: Floats, *, seed: int = 0) -> Interval | None:
    """Return the ratio of two sums with its interval, by resampling their pairs.

    Pairs with nothing to divide by are left out. The interval of more than MANY pairs is that of a
    normal distribution (delta method).

    Args:
        over: What is counted, shape (n,).
        under: What it is a share of, 0 or more, shape (n,).
        seed: Of the resampling.

    Returns:
        None for fewer than two pairs that have something to divide by.
    """
    over, under = over[under > 0], under[under > 0]
    count = len(over)
    if count < 2:
        return None
    value, rng = float(over.sum() / under.sum()), np.random.default_rng(seed)
    if count > MANY:
        spread = (over - value * under).std(ddof=1) / (math.sqrt(count) * under.mean())
        return around(value, rng.normal(value, spread, DRAWS))
    rows = rng.integers(count, size=(DRAWS, count))
    return around(value, over[rows].sum(axis=1) / under[rows].sum(axis=1))


def means(values: Floats, rng: np.random.Generator) -> Floats:
    """Return the means of DRAWS resamplings of the values, shape (DRAWS,).

    The plain bootstrap of n values spreads too little, by the factor sqrt((n - 1) / n). The means
    are drawn apart by that factor, because a few labels are the usual case here.
    """
    count, middle = len(values), float(values.mean())
    if count < 2 or np.ptp(values) == 0:
        return np.full(DRAWS, middle)
    if count > MANY:
        return rng.normal(middle, values.std(ddof=1) / math.sqrt(count), DRAWS)
    drawn = values[rng.integers(count, size=(DRAWS, count))].mean(axis=1)
    spread: Floats = middle + (drawn - middle) * math.sqrt(count / (count - 1))
    return spread


def around(value: float, drawn: Floats, confidence: float = CONFIDENCE) -> Interval:
    """Return a value with the interval that holds this share of its resamplings."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(value, float(low), float(high))
