"""Means of a few runs, and differences between them, each with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % confidence interval by Student's t; NaN for fewer than two."""
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


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
    variances = np.array([stats.sem(one) ** 2, stats.sem(other) ** 2])
    if not variances.any():
        return (middle, middle, middle), made
    freedom = variances.sum() ** 2 / (variances**2 / [len(one) - 1, len(other) - 1]).sum()
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variances.sum()))
    return (middle, middle - half, middle + half), made
