"""Smooth coverage: how much of a pool is near the chosen scans, and which scan adds most to it.

Source: Bae, Noh & Sutherland 2024, "Generalized Coverage for More Robust Low-Budget Active
Learning" (MaxHerding, arXiv 2407.12212): a scan covers another by a Gaussian kernel of their
distance, and a set covers it as well as its best member does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from model import pool
from model.clustering import STARTS, centroids, partition

Array = npt.NDArray[Any]

BLOCK = 256  # gains brought up to date at once
COMPARED = 100_000  # scans whose gains are compared: the first gains of a million take 20 s
MOST_CENTRES = 1_000
REACH = 2.0  # bandwidths within which a labelled scan counts as alike
TEMPER = 0.75  # a mode of n scans counts as n ** (1 - TEMPER): 0 as n scans, 1 as a single scan
FEW = 5.0  # with so many look-alikes a scan has half of its weight, without any it has none


class Coverage:
    """The coverage of a pool by chosen scans, measured on a sample of the pool.

    Args:
        points: The pool, shape (n, m).
        bandwidth: Standard deviation of the kernel, in units of the map; kept as `width`.
        weights: Weight of each scan, shape (n,), not negative; equal by default.
        seed: Of the sample that represents a pool from 5,000 scans on.
    """

    def __init__(
        self, points: Array, bandwidth: float, *, weights: Array | None = None, seed: int = 0
    ) -> None:
        rows = pool.sample(np.arange(len(points)), seed)
        self._size = len(points)
        self._targets = points[rows]
        self._covered = np.zeros(len(rows), np.float32)
        self._weights = _some(np.ones(len(rows)) if weights is None else weights[rows])
        self.width = bandwidth
        self._scale = 2 * bandwidth * bandwidth

    @property
    def share(self) -> float:
        """The share of the pool that is covered, in [0, 1]."""
        if not len(self._targets):
            return 1.0
        return min(1.0, float(self._weights @ self._covered / self._weights.sum()))

    def temper(self, tau: float = TEMPER, few: float = FEW) -> None:
        """Let small modes of the pool count for more, and scans without look-alikes for nothing.

        With r, the sum of a scan's kernels to the pool, its weight is multiplied by
        r ** -tau * (r - 1) / (r - 1 + few). If no scan has a look-alike, all keep equal weights.

        Args:
            tau: From 0, which counts scans, to 1, which counts modes.
            few: Number of look-alikes that gives half of the weight, at least 0.
        """
        others: Array = np.empty(len(self._targets))
        for part in pool.chunks(len(others)):
            others[part] = self._similarity(self._targets[part]).sum(axis=1, dtype=np.float64)
        # The scan itself is none of its look-alikes; the sample stands for the whole pool.
        others = np.maximum(others - 1, 0) * (self._size - 1) / max(1, len(others) - 1)
        kept = np.ones_like(others)
        np.divide(others, others + few, out=kept, where=others + few > 0)
        self._weights = _some(self._weights * (1 + others) ** -tau * kept)

    def gains(self, points: Array) -> Array:
        """Return how much each point would add to the covered share, shape (k,)."""
        gains = np.empty(len(points))
        for part in pool.chunks(len(points)):
            added = self._similarity(points[part])  # (k, targets)
            added -= self._covered
            np.maximum(added, 0, out=added)
            added *= self._weights
            gains[part] = added.sum(axis=1, dtype=np.float64)
        gains /= self._weights.sum(dtype=np.float64)
        return gains

    def cover(self, points: Array) -> None:
        """Note that these points, shape (k, m), were chosen."""
        for part in pool.chunks(len(points)):
            best = self._similarity(points[part]).max(axis=0)
            np.maximum(self._covered, best, out=self._covered)

    def _similarity(self, points: Array) -> Array:
        squares: Array = cdist(points, self._targets, "sqeuclidean")
        if self._scale == 0:
            return np.asarray(squares == 0, np.float32)
        with np.errstate(over="ignore"):  # beyond the largest number a scan is infinitely far
            squares /= -self._scale
            near: Array = np.exp(squares.astype(np.float32))  # twice as fast as in double precision
        return near


class Herding:
    """Greedy choice of the scan that adds most to the coverage.

    The gain of a scan only shrinks while others are chosen. So an old gain is an upper bound, and
    only the largest bounds must be updated (Minoux 1978, accelerated greedy). Of a larger pool,
    COMPARED scans are drawn and compared: the best of a few times n / k drawn scans is enough for
    each of k picks (Mirzasoleiman et al. 2015, "Lazier Than Lazy Greedy", arXiv 1409.7938; they
    draw anew for every pick).

    Args:
        points: The candidates, shape (n, m).
        coverage: What they add to.
        costs: Of the candidates, above 0, shape (n,): the largest gain for its cost is chosen. None
            for equal costs.
        seed: Of the draw.

    Attributes:
        gains: What each compared candidate adds, or an upper bound; 0 for the others. Shape (n,).
    """

    def __init__(
        self, points: Array, coverage: Coverage, costs: Array | None = None, *, seed: int = 0
    ) -> None:
        self._points = points
        self._costs = np.ones(len(points)) if costs is None else costs
        self._coverage = coverage
        self._seed = seed
        self._compared = np.zeros(len(points), bool)
        self._fresh = np.zeros(len(points), bool)
        self.gains = np.zeros(len(points))
        drawn = self._drawn(np.arange(len(points)))
        self._compared[drawn] = True
        self._update(drawn)

    def best(self, allowed: Array) -> int:
        """Return the allowed row with the largest gain for its cost; ties go to the lowest row.

        Args:
            allowed: Shape (n,) bool, with at least one True.
        """
        rows = np.flatnonzero(allowed & self._compared)
        if not len(rows):  # for example, all allowed scans are of one small source
            rows = self._drawn(np.flatnonzero(allowed))
            self._update(rows)
        while True:
            bounds = self.gains[rows] / self._costs[rows]
            row = int(rows[np.argmax(bounds)])
            if self._fresh[row]:
                return row
            bounds[self._fresh[rows]] = -np.inf
            self._update(rows[_largest(bounds)])

    def choose(self, row: int) -> None:
        """Note that a row was chosen."""
        self._coverage.cover(self._points[row : row + 1])
        self._fresh[:] = False

    def _drawn(self, rows: Array) -> Array:
        """Return the rows, or COMPARED of them, ascending."""
        return pool.sample(rows, self._seed, min(len(rows), COMPARED))

    def _update(self, rows: Array) -> None:
        self.gains[rows] = self._coverage.gains(self._points[rows])
        self._fresh[rows] = True


def bandwidth(points: Array, count: int, *, seed: int = 0, starts: int = STARTS) -> float:
    """Return the kernel width at which `count` scans can just about cover the pool.

    It is the root mean square distance to the nearest of `count` k-means centres (at most 1,000
    and at most half the number of scans), so it follows the scale of the map and the budget.
    """
    if not len(points):
        return 0.0
    wanted = max(1, min(count, len(points) // 2, MOST_CENTRES))
    clusters = partition(points, wanted, seed=seed, starts=starts)
    centres = centroids(points, clusters)[clusters]
    return float(np.sqrt(((points - centres) ** 2).sum(axis=1).mean()))


def share_alike(points: Array, labelled: Array, *, seed: int = 0) -> float:
    """Return the share of a pool that lies near a labelled scan, in [0, 1].

    Near means within REACH widths of the map. Unlike the smooth coverage the share reaches 1 once
    every dense place has a label, so people can read it as a share of scans. From 5,000 scans on it
    is an estimate from 5,000 of them.

    Args:
        points: The pool, shape (n, m).
        labelled: Shape (n,) bool.
        seed: Of k-means and of the sample.
    """
    if not len(points):
        return 1.0
    seen = points[pool.sample(np.arange(len(points)), seed, pool.LARGE)]
    # Every round asks, and ten starts would change the width by less than 1 %.
    width = bandwidth(seen, _places(len(points)), seed=seed, starts=1)
    return float((pool.nearest(seen, points[labelled]) <= REACH * width).mean())


def covered_share(points: Array, chosen: Array, *, seed: int = 0) -> float:
    """Return how much of a pool is near its chosen scans, in [0, 1].

    The share has the same meaning on any map, and grows with every label.

    Args:
        points: The pool with the chosen scans, shape (n, m).
        chosen: Shape (c, m).
        seed: Of k-means and of the sample.
    """
    coverage = Coverage(points, _width_of(points, seed), seed=seed)
    coverage.cover(chosen)
    return coverage.share


def _width_of(points: Array, seed: int) -> float:
    """Return the width at which sqrt(n) well-placed scans can just about cover the pool."""
    return bandwidth(points, _places(len(points)), seed=seed)


def _places(scans: int) -> int:
    return math.ceil(math.sqrt(scans))


def look_alikes(
    points: Array, rows: Array, width: float, labelled: Array, *, seed: int = 0
) -> tuple[Array, Array]:
    """Return how many other scans lie within a distance of each row, and how many are labelled.

    From 5,000 scans on, the first number is an estimate from a sample. Shapes (r,), int.

    Args:
        points: The pool, shape (n, m).
        rows: Unlabelled rows, shape (r,).
        width: The distance, such as the width of a kernel.
        labelled: Shape (n,) bool.
        seed: Of the sample.
    """
    seen = pool.sample(np.arange(len(points)), seed)
    itself = np.isin(rows, seen)
    near = _within(points[rows], points[seen], width) - itself
    others = np.rint(near * (len(points) - 1) / np.maximum(1, len(seen) - itself)).astype(int)
    known = _within(points[rows], points[labelled], width)
    return np.maximum(others, known), known


def _within(points: Array, others: Array, width: float) -> Array:
    counts = np.empty(len(points), int)
    for part in pool.chunks(len(points)):
        counts[part] = (cdist(points[part], others) <= width).sum(axis=1)
    return counts


def _some(weights: Array) -> Array:
    """Return the weights, or equal weights if all are zero; float32."""
    return (weights if weights.any() else np.ones(len(weights))).astype(np.float32)


def _largest(bounds: Array) -> Array:
    """Return the rows of the largest finite bounds, at most BLOCK."""
    size = min(BLOCK, len(bounds))
    rows: Array = np.argpartition(-bounds, size - 1)[:size]
    finite: Array = rows[np.isfinite(bounds[rows])]
    return finite
