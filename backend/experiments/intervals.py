"""Means of a few runs, and differences between them, each with its confidence interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000

Interval = tuple[float, float, float]  # a value with the limits of its interval


def interval(values: Sequence[float]) -> Interval:
    """Return the mean and its 95 % confidence interval by Student's t; NaN for fewer than two."""
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return mean, math.nan, math.nan
    return mean, *_limits(lambda: stats.ttest_1samp(values, 0))


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[Interval, str]:
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


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return the differences of two arms for the seeds that both have."""
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def over_pools(differences: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean difference over pools and its interval by a plain bootstrap.

    Pools are drawn with replacement, and within each drawn pool its seeds. Every pool has the same
    weight. Few pools give a rough interval; for a single value there is none (NaN).

    Args:
        differences: Of each pool, one for each seed; pools without seeds are left out.
        confidence: That the interval holds the true mean.
    """
    pools = [np.asarray(of) for of in differences if len(of)]
    if not pools:
        return (math.nan,) * 3
    middle = float(np.mean([of.mean() for of in pools]))
    if sum(map(len, pools)) < 2:
        return middle, math.nan, math.nan
    chance = np.random.default_rng(0)
    # One mean for each pool and resampling of its seeds, drawn anew for every place.
    places = len(pools)
    drawn = chance.integers(places, size=(RESAMPLES, places))
    means = np.empty(drawn.shape)
    for number, of in enumerate(pools):
        there = drawn == number
        seeds = chance.integers(len(of), size=(int(there.sum()), len(of)))
        means[there] = of[seeds].mean(axis=1)
    return middle, *_percentiles(means.mean(axis=1), confidence)


def gap_closed(
    ours: Mapping[int, float], lower: Mapping[int, float], upper: Mapping[int, float]
) -> Interval:
    """Return (ours - lower) / (upper - lower) of the means, with its 95 % bootstrap interval.

    Args:
        ours: A measure of an arm by seed.
        lower: Of the baseline.
        upper: Of networks that were trained on all labels.

    Returns:
        NaN if no seed has all three, or if all labels are not better than the baseline. Limits are
        NaN for one seed, or if a resampling has no gap.
    """
    seeds = sorted(ours.keys() & lower.keys() & upper.keys())
    table = np.array([[of[seed] for seed in seeds] for of in (ours, lower, upper)])
    if not seeds or _gap(table)[1] <= 0:
        return (math.nan,) * 3
    gained, gap = _gap(table)
    drawn = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))
    gains, gaps = _gap(table[:, drawn])
    if len(seeds) < 2 or np.min(gaps) <= 0:
        return float(gained / gap), math.nan, math.nan
    return float(gained / gap), *_percentiles(gains / gaps, CONFIDENCE)


def _gap(table: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    """Return the gain of an arm over the baseline, and the gain of all labels over it."""
    ours, lower, upper = table.mean(axis=-1)
    return ours - lower, upper - lower


def _percentiles(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)


def _limits(test: Callable[[], Any]) -> tuple[float, float]:
    """Return the limits of the confidence interval that belongs to a t-test."""
    with warnings.catch_warnings():
        # Equal values are right here: their interval has no width.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        limits = test().confidence_interval(CONFIDENCE)
    return float(limits.low), float(limits.high)
