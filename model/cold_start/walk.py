"""The walk over clusters that most strategies use: each cluster has a share of the budget."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from model.clustering import Clustering
from model.cold_start.strategy import Choice, Pool

Array = npt.NDArray[Any]


def allocate(sizes: Array, total: int) -> Array:
    """Return each cluster's share of scans, shape (k,), summing to min(total, all scans).

    Each cluster gets one scan. The rest is divided in proportion to size by largest remainder; an
    exhausted cluster passes its share on. Ties go to the lower number (arXiv 2601.18532, section
    3.1.4).

    Args:
        sizes: Number of scans in each cluster, shape (k,), all at least 1.
        total: Number of scans to divide, at least k.
    """
    sizes = np.asarray(sizes, int)
    if total < len(sizes):
        raise ValueError(f"{total} scans for {len(sizes)} clusters: expected at least one each")
    if not len(sizes):
        return sizes
    rest = min(total, int(sizes.sum())) - len(sizes)
    shares, remainders = np.divmod(rest * sizes, sizes.sum())
    counts = 1 + shares
    claims = np.argsort(-remainders, kind="stable")
    while (missing := rest + len(sizes) - counts.sum()) > 0:
        open_claims = claims[counts[claims] < sizes[claims]]
        counts[open_claims[:missing]] += 1
    return counts


def walk_on(pool: Pool, clustering: Clustering, preference: Array | None = None) -> Choice:
    """Choose max(budget, 1,000) scans step by step, and order the rest by their last scores."""
    walk = Walk(pool, clustering, preference)
    picks = np.array([walk.step() for _ in pool.steps], int)
    return Choice(np.concatenate([picks, walk.rest()]), len(picks), clustering)


def represent(pool: Pool, clustering: Clustering, preference: Array) -> Choice:
    """Choose the budget step by step, and order the rest by distance to it, farthest first."""
    walk = Walk(pool, clustering, preference)
    picks = np.array([walk.step() for _ in pool.within_budget], int)
    return Choice(np.concatenate([picks, pool.rest(picks, walk.turns)]), len(picks), clustering)


class Walk:
    """Chooses one scan after another from the cluster whose share is filled least.

    A step depends only on the set of chosen scans, not on their order. So labelling a prefix of
    the order does not change the rest. Arrays are sorted by cluster, then row: a cluster is a
    slice, and ties go to the lowest row.

    Args:
        pool: The scans.
        clustering: Their clusters, at most as many as the budget.
        preference: Preference within a cluster, shape (n,), highest first. By default the medoid
            comes first, then the scan farthest from those chosen in the cluster.
    """

    def __init__(self, pool: Pool, clustering: Clustering, preference: Array | None = None) -> None:
        self._rows = np.argsort(clustering.clusters, kind="stable")
        self._points = pool.points[self._rows]
        self._clusters = clustering.clusters[self._rows]
        ends = np.searchsorted(self._clusters, np.arange(clustering.k + 1))
        self._spans = [slice(start, end) for start, end in pairwise(ends)]
        self._sizes = np.diff(ends)
        self._quotas = allocate(self._sizes, pool.budget)
        self._counts = np.zeros(clustering.k, int)
        self._follows = preference is None
        self._score = (
            self._nearness(pool, clustering) if preference is None else preference[self._rows]
        )
        self.turns = pool.turns()
        for position in np.flatnonzero(pool.labelled[self._rows]):
            self._choose(int(position))

    def step(self) -> int:
        """Choose the next scan and return its row."""
        allowed = self.turns.allowed[self._rows]
        span = self._spans[self._neediest(allowed)]
        position = int(span.start + np.argmax(np.where(allowed[span], self._score[span], -np.inf)))
        self._choose(position)
        row = int(self._rows[position])
        self.turns.take(row)
        return row

    def rest(self) -> Array:
        """Return the remaining rows by their current scores, clusters interleaved."""
        left = np.flatnonzero(self.turns.left[self._rows])
        left = left[np.lexsort((-self._score[left], self._clusters[left]))]
        clusters = self._clusters[left]
        place = np.arange(len(left)) - np.searchsorted(clusters, clusters)
        filled = (self._counts[clusters] + 1 + place) / self._sizes[clusters]
        return self.turns.first(self._rows[left[np.lexsort((clusters, filled))]])

    def _nearness(self, pool: Pool, clustering: Clustering) -> Array:
        """Return the preference for a cluster's first scan: the medoid, then the nearest to it."""
        near = np.empty(len(self._rows))
        for span, medoid in zip(self._spans, clustering.medoids, strict=True):
            near[span] = -cdist(self._points[span], pool.points[medoid : medoid + 1])[:, 0]
        return near

    def _neediest(self, allowed: Array) -> int:
        """Return the cluster whose share is least filled after one more scan; empty ones first."""
        available = np.bincount(self._clusters[allowed], minlength=len(self._spans))
        candidates, goals = available > 0, self._sizes
        within = candidates & (self._counts < self._quotas)
        if within.any():
            candidates, goals = within, self._quotas
        filled = np.where(self._counts == 0, 0, (self._counts + 1) / goals)
        return int(np.argmin(np.where(candidates, filled, np.inf)))

    def _choose(self, position: int) -> None:
        number = self._clusters[position]
        span = self._spans[number]
        if self._follows:
            distance = cdist(self._points[span], self._points[position : position + 1])[:, 0]
            first = self._counts[number] == 0
            self._score[span] = distance if first else np.minimum(self._score[span], distance)
        self._counts[number] += 1
