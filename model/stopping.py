"""Three signs that more labels are not worth their time, each with its 90 % interval.

No more gain: a curve fitted to the held-out Dice of the models so far says what the next batch is
worth. No more change: the masks of two models a batch apart agree as well as those of two networks
trained on the same labels. Good drafts: drafts of scans that were picked at random need few
changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model import resampling
from model.resampling import DRAWS, Floats, Interval

CONFIDENCE = 0.9  # 5 % of the draws lie beyond each limit
LEAST_POINTS = 5  # models: with fewer nothing is said of the gain
LEAST_SCANS = 20  # held-out scans, or compared drafts: with fewer nothing is said
LEAST_GROUPS = 5  # of held-out scans: slices of a few volumes would give too narrow an interval
ROUNDS = 2  # batches in a row that must show the same sign
SAME = 0.005  # Dice: masks that agree so much less than those of a twin count as unchanged
LEAST_SHARE = 0.03  # of the scans: a cluster of that size must have a label before labelling stops

# The shape of the curve: from nearly logarithmic to nearly flat after the first batch.
EXPONENTS = np.geomspace(0.1, 4.0, 25)
PARAMETERS = 3

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """A model of the curve.

    Attributes:
        labels: The number of scans it was trained on.
        scores: Its Dice on each held-out scan, by task or row.
    """

    labels: int
    scores: Mapping[int, float]


@dataclass(frozen=True)
class Curve:
    """Held-out Dice over labels, measured on the same scans for every model.

    Attributes:
        labels: Scans that each model was trained on, rising, shape (m,).
        scores: Dice of each model on each group of held-out scans, shape (m, n).
        scans: Number of held-out scans that all these models were measured on.
    """

    labels: Ints
    scores: Floats
    scans: int

    @property
    def tells(self) -> bool:
        """Whether there is enough to say something of the gain."""
        models, groups = self.scores.shape
        return models >= LEAST_POINTS and groups >= LEAST_GROUPS and self.scans >= LEAST_SCANS

    @property
    def before(self) -> Curve:
        """The curve as it was before its last model."""
        return Curve(self.labels[:-1], self.scores[:-1], self.scans)


@dataclass(frozen=True)
class Forecast:
    """What a fitted curve says of further labels.

    Attributes:
        gain: Dice that the next batch is expected to gain.
        labels: Numbers of labels at which `band` is given.
        band: The fitted Dice there.
    """

    gain: Interval
    labels: tuple[int, ...]
    band: tuple[Interval, ...]


def spaced(labels: Sequence[int], batch: int) -> list[int]:
    """Return the places of the models that make the curve: each a batch or more after the last.

    Models that differ by a label or two say nothing of the gain of a batch, and would let the same
    chance count several times. A model with more labels than a later model learnt from labels that
    were deleted since, so it is left out.

    Args:
        labels: The number of labels of each model, oldest model first.
        batch: The least distance between two models, at least 1.
    """
    fewest_later = np.minimum.accumulate(np.array(labels, int)[::-1])[::-1]
    kept: list[int] = []
    for place, count in enumerate(labels):
        if count == fewest_later[place] and (not kept or count >= labels[kept[-1]] + batch):
            kept.append(place)
    return kept


def curve(points: Sequence[Point], groups: Mapping[int, int] | None = None) -> Curve:
    """Return the newest part of the models that shares enough held-out scans.

    Scans join the held-out ones as labels come, so older models were measured on fewer of them.
    Models are taken from the newest to the oldest while at least LEAST_SCANS scans are common.

    Args:
        points: Models with rising numbers of labels.
        groups: The group of each scan: scans of a group count as one, because they are alike.
    """
    shared: set[int] = set()
    first = len(points)
    for place in range(len(points) - 1, -1, -1):
        scans_of_model = set(points[place].scores)
        common = shared & scans_of_model if first < len(points) else scans_of_model
        if len(common) < LEAST_SCANS:
            break
        shared, first = common, place
    kept = points[first:]
    scans = sorted(shared)
    members = np.array([groups[scan] if groups else scan for scan in scans], np.int64)
    scores = np.array([[point.scores[scan] for scan in scans] for point in kept], np.float64)
    means = [scores[:, members == group].mean(axis=1) for group in np.unique(members)]
    return Curve(
        labels=np.array([point.labels for point in kept], np.int64),
        scores=np.stack(means, axis=1) if means else np.zeros((0, 0)),
        scans=len(scans),
    )


def forecast(of: Curve, batch: int, *, ahead: int = 3, seed: int = 0) -> Forecast | None:
    """Return what the next batch is expected to gain; None while it is too early to tell.

    The mean Dice follows a - b n^-c, with b >= 0 and a <= 1, fitted by least squares. Its interval
    has two sources of chance: which scans are held out (they are resampled), and how each network
    turned out (the residuals of the fit get random signs).

    Args:
        of: The curve.
        batch: Labels of the next batch, at least 1.
        ahead: Batches that the band reaches beyond the last model.
        seed: Of the resampling.
    """
    if not of.tells:
        return None
    rng = np.random.default_rng(seed)
    labels = of.labels.astype(np.float64)
    mean = of.scores.mean(axis=1)
    fitted = _fit(labels, mean[None])
    left = mean - _value(fitted, labels)[0]
    groups = of.scores.shape[1]
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=DRAWS) / groups
    signs = rng.choice([-1.0, 1.0], size=(DRAWS, len(labels)))
    # The fit takes PARAMETERS residuals' worth of the spread away.
    spread = left * np.sqrt(len(labels) / (len(labels) - PARAMETERS))
    drawn = _fit(labels, weights @ of.scores.T + signs * spread)
    last = int(of.labels[-1])
    steps = np.array([last, last + batch], np.float64)
    at = sorted({*of.labels.tolist(), *range(last, last + ahead * batch + 1, batch)})
    grid = np.array(at, np.float64)
    return Forecast(
        gain=_around(*(np.diff(_value(parameters, steps))[:, 0] for parameters in (fitted, drawn))),
        labels=tuple(at),
        band=tuple(
            _around(middle, of_draws)
            for middle, of_draws in zip(_value(fitted, grid).T, _value(drawn, grid).T, strict=True)
        ),
    )


def _around(middle: Floats, drawn: Floats) -> Interval:
    return resampling.around(float(middle[0]), drawn, CONFIDENCE)


Parameters = tuple[Floats, Floats, Floats]  # a, b and c of each fit, shape (k,)


def _fit(labels: Floats, scores: Floats) -> Parameters:
    """Return the curves that fit scores best, shape (k, m), over labels, shape (m,)."""
    fits = [_fit_with(labels**-exponent, scores) for exponent in EXPONENTS]
    errors = np.stack([error for _, _, error in fits])
    best, rows = errors.argmin(axis=0), np.arange(len(scores))
    top = np.stack([a for a, _, _ in fits])[best, rows]
    slope = np.stack([b for _, b, _ in fits])[best, rows]
    return top, slope, EXPONENTS[best]


def _fit_with(x: Floats, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Return a, b and the squared error of the best a - b x with b >= 0 and a <= 1."""
    middle = x - x.mean()
    slope = np.maximum(-(scores @ middle) / (middle @ middle), 0.0)
    top = scores.mean(axis=1) + slope * x.mean()
    over = top > 1.0
    slope = np.where(over, ((1.0 - scores) @ x) / (x @ x), slope)
    top = np.minimum(top, 1.0)
    error = ((scores - (top[:, None] - slope[:, None] * x)) ** 2).sum(axis=1)
    return top, slope, error


def _value(parameters: Parameters, labels: Floats) -> Floats:
    """Return the curves at some numbers of labels, shape (k, m)."""
    top, slope, exponent = (each[:, None] for each in parameters)
    value: Floats = top - slope * labels**-exponent
    return value


def no_more_gain(of: Curve, batch: int, enough: float, *, seed: int = 0) -> bool:
    """Return whether the next batch gains less than `enough`, now and a batch ago.

    The upper limit of the interval must lie below `enough` (Dice) for ROUNDS curves in a row.
    """
    for _ in range(ROUNDS):
        expected = forecast(of, batch, seed=seed)
        if expected is None or expected.gain.high >= enough:
            return False
        of = of.before
    return True


def change(now: Sequence[float], twin: Sequence[float], *, seed: int = 0) -> Interval | None:
    """Return how much less masks agree with the model a batch ago than with a twin's masks.

    Args:
        now: Dice of a model's masks with those of the model a batch ago, by unlabelled scan.
        twin: Dice of the same masks with those of a network trained on the same labels with
            another seed, by the same scan.
        seed: Of the resampling.

    Returns:
        The mean difference: about 0 if the last batch changed no more than chance does, and below
        0 if it changed more; None for fewer than two scans.
    """
    differences = np.asarray(now, np.float64) - np.asarray(twin, np.float64)
    return resampling.mean(differences, seed=seed, confidence=CONFIDENCE)


def is_unchanged(difference: Interval | None) -> bool:
    """Return whether the last batch changed the masks no more than chance does."""
    return difference is not None and difference.value >= -SAME


def drafts(dice: Sequence[float], *, seed: int = 0) -> Interval | None:
    """Return the mean Dice of drafts with the submitted masks; None while it is too early to tell.

    Args:
        dice: Of drafts of scans that were picked at random. Scans that an acquisition picks are
            harder than the others, so theirs would say too little of the drafts to come.
        seed: Of the resampling.
    """
    if len(dice) < LEAST_SCANS:
        return None
    return resampling.mean(dice, seed=seed, confidence=CONFIDENCE)


def unlabelled_clusters(clusters: Ints, labelled: NDArray[np.bool_]) -> list[int]:
    """Return the clusters of LEAST_SHARE or more of the scans in which no scan has a label.

    Args:
        clusters: Of each scan, shape (n,).
        labelled: Whether each scan has a label, shape (n,).
    """
    numbers, sizes = np.unique(clusters, return_counts=True)
    large = numbers[sizes >= LEAST_SHARE * len(clusters)]
    return sorted(set(large.tolist()) - set(clusters[labelled].tolist()))


def can_stop(*, no_gain: bool, no_change: bool, good_drafts: bool, unlabelled: int) -> bool:
    """Return whether labelling can stop.

    Args:
        no_gain: The next batch gains less than enough.
        no_change: The last batches changed the masks no more than chance does.
        good_drafts: Drafts reach the target.
        unlabelled: Number of large clusters without a label: they forbid it.
    """
    return not unlabelled and ((no_gain and no_change) or good_drafts)
