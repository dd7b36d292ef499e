"""Means of a few runs, and differences between them, each with its confidence interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % confidence interval by Student's t; NaN for fewer than two."""
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return mean, math.nan, math.nan
    return mean, *_limits(lambda: stats.ttest_1samp(values, 0))


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> tuple[tuple[float, float, float], str]:
    """Return the difference of two means with its 95 % confidence interval, and how it was made.

    Paired over seeds where both have the same ones; else by Welch's t, which uses all of them.

    Args:
        ours, theirs: Values by seed.
    """
    if ours.keys() == theirs.keys():
        return interval([ours[seed] - theirs[seed] for seed in ours]), f"paired, n = {len(ours)}"
    one, other = list(ours.values()), list(theirs.values())
    made = f"Welch, n = {len(one)} and {len(other)}"
    middle = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < 2:
        return (middle, math.nan, math.nan), made
    if np.ptp(one) == np.ptp(other) == 0:
        return (middle, middle, middle), made  # scipy gives NaN: without spread no freedom is left
    return (middle, *_limits(lambda: stats.ttest_ind(one, other, equal_var=False))), made


def _limits(test: Callable[[], Any]) -> tuple[float, float]:
    """Return the limits of the confidence interval that belongs to a t-test."""
    with warnings.catch_warnings():
        # Equal values are right here: their interval has no width.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        limits = test().confidence_interval(CONFIDENCE)
    return float(limits.low), float(limits.high)
