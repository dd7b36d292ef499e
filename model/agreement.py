"""How well annotators agree: the scores of pairs of masks, by scan, by class and by annotator.

The scores of one pair come from `model.evaluation`, which treats its masks alike but for their
order: Dice and HD95 are symmetric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model import resampling
from model.evaluation import MAIN, Metric
from model.resampling import Interval

Floats = NDArray[np.float64]

LEAST_SHOWN = 10


@dataclass(frozen=True)
class Comparison:
    """Two annotations of one scan by two annotators.

    Attributes:
        task: The scan.
        annotators: Their two numbers.
        scores: The score of each class by name of the metric, shape (c,); NaN for a class that
            neither drew.
    """

    task: int
    annotators: tuple[int, int]
    scores: Mapping[str, Sequence[float] | Floats]

    def score(self, metric: Metric) -> float:
        """Return the mean over the classes that either annotator drew."""
        return float(metric.mean(self.scores[metric.name]))


@dataclass(frozen=True)
class Matrix:
    """The mean score of each pair of annotators, by one metric.

    Attributes:
        annotators: Their numbers, in order, of length k.
        scores: The mean over the scans that both drew, shape (k, k), symmetric; NaN for pairs that
            share no scan, and on the diagonal.
        scans: The number of scans that both drew, shape (k, k).
    """

    annotators: list[int]
    scores: Floats
    scans: NDArray[np.int64]


def by_scan(comparisons: Sequence[Comparison], metric: Metric = MAIN) -> dict[int, float]:
    """Return the mean score over the pairs of each scan, by scan."""
    scores: dict[int, list[float]] = {}
    for each in comparisons:
        scores.setdefault(each.task, []).append(each.score(metric))
    return {task: float(np.mean(of)) for task, of in scores.items()}


def overall(
    comparisons: Sequence[Comparison], metric: Metric = MAIN, *, seed: int = 0
) -> Interval | None:
    """Return the mean score with its interval over scans; None for fewer than two scans.

    Scans are resampled and not pairs, because the pairs of one scan are not independent.
    """
    return resampling.mean(list(by_scan(comparisons, metric).values()), seed=seed)


def by_class(comparisons: Sequence[Comparison], metric: Metric = MAIN) -> list[float]:
    """Return the mean score of each class over all pairs; NaN for a class that nobody drew."""
    scores = np.array([each.scores[metric.name] for each in comparisons], np.float64)
    there = ~np.isnan(scores)
    counts = there.sum(axis=0)
    sums = np.where(there, scores, 0).sum(axis=0)
    means: list[float] = np.where(counts, sums / np.maximum(counts, 1), np.nan).tolist()
    return means


def matrix(comparisons: Sequence[Comparison], metric: Metric = MAIN) -> Matrix:
    """Return the mean score of each pair of annotators.

    Two annotations of one annotator on one scan with a third annotator's are averaged first, so
    that every scan counts once.
    """
    annotators = sorted({number for each in comparisons for number in each.annotators})
    place = {number: row for row, number in enumerate(annotators)}
    scores: dict[tuple[int, int], dict[int, list[float]]] = {}
    for each in comparisons:
        one, other = sorted(place[number] for number in each.annotators)
        scans = scores.setdefault((one, other), {})
        scans.setdefault(each.task, []).append(each.score(metric))
    size = len(annotators)
    means, counts = np.full((size, size), np.nan), np.zeros((size, size), np.int64)
    for (one, other), scans in scores.items():
        means[one, other] = means[other, one] = np.mean([np.mean(of) for of in scans.values()])
        counts[one, other] = counts[other, one] = len(scans)
    return Matrix(annotators, means, counts)


def second_readings(
    uncertainty: Floats, *, scans: int, asked: int, share: float, seed: int = 0
) -> list[int]:
    """Return the rows of the scans for which a second annotation is to be asked now.

    Every other scan is the most uncertain one, the others are drawn at random: the uncertain ones
    show where annotators disagree, the random ones how well they agree on average.

    Args:
        uncertainty: Of the scans of the next batch that need one annotation, in the order of the
            queue, shape (n,); NaN for unknown, which counts as least uncertain.
        scans: Number of scans that are labelled or in the batch.
        asked: Number of scans for which a second annotation was asked before.
        share: Of the scans that need a second annotation, 0 to 1.
        seed: Of the random half.
    """
    rng = np.random.default_rng(seed)
    left = np.argsort(-np.nan_to_num(uncertainty, nan=-np.inf), kind="stable").tolist()
    chosen = []
    for number in range(asked, int(share * scans + 1e-9)):
        if not left:
            break
        chosen.append(left.pop(0 if number % 2 == 0 else int(rng.integers(len(left)))))
    return chosen


def least(comparisons: Sequence[Comparison], most: int = LEAST_SHOWN) -> list[int]:
    """Return the scans with the least agreement by the main metric, worst first."""
    sign = 1 if MAIN.higher_is_better else -1
    scores = by_scan(comparisons)
    return sorted(scores, key=lambda task: (sign * scores[task], task))[:most]
