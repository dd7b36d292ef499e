"""What labels cost in minutes: a cap against idle tabs, what drafts save, and a forecast.

Label Studio measures the time from opening a scan to its submit, breaks included. So every label
has a cap, and what lies above it is taken for a break.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model import resampling
from model.resampling import Floats, Interval

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAST = 5  # labels: with fewer there is no cap, no comparison and no forecast
LEAST_ALIKE = 3  # labels of either kind in a stratum
MOST_STRATA = 3  # of one annotator, by the drawn area
RECENT = 30  # labels on which the forecast rests

# The cap: DEVIATIONS robust standard deviations of the logarithms above their median. The floor
# keeps the cap of an annotator whose labels all took alike at four times the median or more.
DEVIATIONS = 3.0
FLOOR = np.log(4) / DEVIATIONS
MAD_TO_DEVIATION = 1.4826  # for a normal distribution


@dataclass(frozen=True)
class Work:
    """Labels whose time is known, oldest first.

    Attributes:
        minutes: Of each label, above 0, shape (n,).
        annotator: The number of the annotator, shape (n,).
        drafted: Whether a region of the label comes from a draft, shape (n,).
        area: The share of the scan that is drawn, as a measure of difficulty, shape (n,).
    """

    minutes: Floats
    annotator: Ints
    drafted: Bools
    area: Floats

    def capped(self) -> Work:
        """Return the same labels with no time above its cap."""
        capped = np.minimum(self.minutes, caps(self))
        return Work(capped, self.annotator, self.drafted, self.area)


@dataclass(frozen=True)
class Saved:
    """Minutes of labels with a draft against similar labels without a draft.

    Attributes:
        per_label: Minutes that a draft saved for a label; below 0 if drafts cost time.
        total: The same for all compared labels with a draft together.
        drafted: How many labels with a draft were compared.
        plain: How many labels without a draft they were compared with.
        strata: In how many strata of annotator and drawn area.
    """

    per_label: Interval
    total: Interval
    drafted: int
    plain: int
    strata: int


def caps(work: Work) -> Floats:
    """Return the longest time that each label may count with, in minutes, shape (n,).

    It is exp(m + 3 s): m is the median of the logarithms of the annotator's times, and s their
    median absolute deviation times 1.4826, but at least ln(4) / 3. Labels with and without a draft
    have caps of their own, because a draft may change the usual time. An annotator with fewer than
    LEAST labels of a kind shares the cap of all labels of that kind; fewer than LEAST labels of a
    kind have no cap (inf).
    """
    limits = np.empty(len(work.minutes))
    for kind in (work.drafted, ~work.drafted):
        limits[kind] = _cap(work.minutes[kind])
        for annotator in np.unique(work.annotator[kind]):
            own = kind & (work.annotator == annotator)
            if np.count_nonzero(own) >= LEAST:
                limits[own] = _cap(work.minutes[own])
    return limits


def _cap(minutes: Floats) -> float:
    if len(minutes) < LEAST:
        return float("inf")
    logs = np.log(minutes)
    middle = np.median(logs)
    spread = MAD_TO_DEVIATION * np.median(np.abs(logs - middle))
    return float(np.exp(middle + DEVIATIONS * max(spread, FLOOR)))


def strata(work: Work) -> Ints:
    """Return the stratum of each label, shape (n,); -1 for a label that cannot be compared.

    A stratum holds labels of one annotator of similar drawn area: the thirds of the annotator's
    areas, or fewer parts if the rarer kind (with or without a draft) has fewer than LEAST labels a
    part. A stratum with fewer than LEAST_ALIKE labels of either kind compares nothing.
    """
    numbers = np.full(len(work.minutes), -1)
    for annotator in np.unique(work.annotator):
        own = work.annotator == annotator
        drafted = np.count_nonzero(own & work.drafted)
        count = min(MOST_STRATA, min(drafted, np.count_nonzero(own) - drafted) // LEAST)
        if count:
            edges = np.quantile(work.area[own], np.arange(1, count) / count)
            numbers[own] = numbers.max() + 1 + np.searchsorted(edges, work.area[own], side="right")
    for number in np.unique(numbers[numbers >= 0]):
        inside = numbers == number
        drafted = np.count_nonzero(inside & work.drafted)
        if min(drafted, np.count_nonzero(inside) - drafted) < LEAST_ALIKE:
            numbers[inside] = -1
    return numbers


def saved(work: Work, *, seed: int = 0) -> Saved | None:
    """Return the minutes that drafts saved; None while it is too early to tell.

    In each stratum the mean time without a draft is compared with the mean time with a draft. The
    differences are weighted by the number of labels with a draft. The interval comes from
    resampling the labels of each stratum.

    This is an observation and no experiment: labels without a draft are mostly the first ones,
    when people still had to learn the task, and a draft that was deleted counts as none.
    """
    rng = np.random.default_rng(seed)
    pairs = list(_compared(work))
    drafted, plain = (sum(len(pair[kind]) for pair in pairs) for kind in (0, 1))
    if min(drafted, plain) < LEAST:
        return None
    total = sum(len(a) * (b.mean() - a.mean()) for a, b in pairs)
    drawn = np.zeros(resampling.DRAWS)
    for with_draft, without in pairs:
        difference = resampling.means(without, rng) - resampling.means(with_draft, rng)
        drawn += len(with_draft) * difference
    interval = resampling.around(float(total), drawn)
    return Saved(
        per_label=interval.times(1 / drafted),
        total=interval,
        drafted=drafted,
        plain=plain,
        strata=len(pairs),
    )


def _compared(work: Work) -> Iterator[tuple[Floats, Floats]]:
    """Yield the minutes with and without a draft of each stratum."""
    numbers = strata(work)
    for number in np.unique(numbers[numbers >= 0]):
        inside = numbers == number
        yield work.minutes[inside & work.drafted], work.minutes[inside & ~work.drafted]


def forecast(minutes: Floats, scans: int, *, seed: int = 0) -> Interval | None:
    """Return the minutes that some more scans take; None while it is too early to tell.

    It is their number times the mean of the last RECENT labels, with the interval of that mean.

    Args:
        minutes: Of the labels so far, capped, oldest first.
        scans: Number of scans to come.
        seed: Of the interval.
    """
    recent = minutes[-RECENT:]
    mean = resampling.mean(recent, seed=seed) if len(recent) >= LEAST else None
    return mean.times(scans) if mean else None
