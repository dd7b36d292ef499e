"""Clusters of a map: how many there are, where their medoids lie, and whether they are real.

Source: arXiv 2601.18532, section 3.1.3: the number of clusters of the highest mean silhouette.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from threadpoolctl import ThreadpoolController

from model import pool
from model.pool import assign, sample

Array = npt.NDArray[Any]

STARTS = 10
NULLS = 20  # clusterings of uniform points that real clusters have to beat
PERCENTILE = 95
MEMBERS = 4  # scans a cluster has at least in the sample that k-means sees, on average


@dataclass(frozen=True, eq=False)
class Clustering:
    """Clusters of a map, numbered from the largest on.

    Attributes:
        clusters: Number of each row's cluster, shape (n,).
        k: How many clusters there are.
        silhouette: Mean silhouette in [-1, 1]; NaN when nothing could be compared.
        medoids: Row of each cluster with the least summed distance to the others, shape (k,).
        threshold: Silhouette that it has to exceed, as clusters of uniform points may reach it; NaN
            where that was not asked for.
    """

    clusters: Array
    k: int
    silhouette: float
    medoids: Array
    threshold: float = math.nan

    @property
    def collapsed(self) -> bool:
        """Whether the map has no more clusters than uniform points; all is one cluster then."""
        return self.silhouette <= self.threshold  # NaN compares false


def most_clusters(n: int) -> int:
    """Return the most clusters looked for in a pool of n: 5 log2 n, so 50 in 1,000 scans."""
    return max(2, math.ceil(5 * math.log2(max(n, 2))))


def cluster(points: Array, limit: int, *, seed: int = 0) -> Clustering:
    """Return the k-means clustering of highest mean silhouette, if chance would not do as well.

    k goes from 2 to min(limit, `most_clusters`), ties to the smaller. One cluster comes back where
    two cannot be told apart, and where the silhouette is not above the 95th percentile of 20
    clusterings, with the same k, of uniform points in the map's bounding box.

    Args:
        points: The map, shape (n, m).
        limit: Most clusters wanted; each will get a medoid out of the budget.
        seed: Of k-means, of the uniform points, and of the samples used from 5,000 scans on.
    """
    seen = points[sample(np.arange(len(points)), seed, pool.LARGE)]
    distinct = len(np.unique(seen, axis=0))
    labels: Array = np.zeros(len(seen), int)
    best, centres = -math.inf, seen[:1]
    for k in range(2, min(limit, most_clusters(len(points)), len(seen) - 1, distinct) + 1):
        split, middles = _kmeans(seen, k, seed)
        score = _silhouette(seen, split, seed)
        if score > best:
            best, labels, centres = score, split, middles
    threshold = _null_silhouette(seen, len(centres), seed) if len(centres) > 1 else math.nan
    if len(centres) < 2 or best <= threshold:
        one = describe(points, np.zeros(len(points), int), seed=seed)
        return replace(one, silhouette=best if len(centres) > 1 else math.nan, threshold=threshold)
    everyone = labels if len(seen) == len(points) else assign(points, centres)
    found = describe(points, _by_size(everyone), seed=seed)
    # Judged on what k-means saw, as the threshold is: another sample might contradict it.
    return replace(found, silhouette=best, threshold=threshold)


def partition(points: Array, k: int, *, seed: int = 0) -> Array:
    """Return the k-means cluster of each row, shape (n,), numbered from the largest on.

    Fewer than k come back where fewer places are distinct. Pools from 5,000 scans on are learnt
    from a sample with room for k clusters.
    """
    if not len(points):
        return np.empty(0, int)
    size = min(len(points), max(pool.LARGE, MEMBERS * k))
    seen = points[sample(np.arange(len(points)), seed, size)]
    labels, centres = _kmeans(seen, min(k, len(np.unique(seen, axis=0))), seed)
    return _by_size(labels if len(seen) == len(points) else assign(points, centres))


def describe(points: Array, clusters: Array, *, seed: int = 0) -> Clustering:
    """Return the number, silhouette and medoids of clusters that are already known.

    Args:
        points: The map, shape (n, m).
        clusters: Number of each row's cluster, shape (n,); `medoids` follow their sorted numbers.
        seed: Of the samples used from 5,000 scans on.
    """
    numbers = np.unique(clusters)
    medoids = [_medoid(points, np.flatnonzero(clusters == c), seed) for c in numbers]
    silhouette = _silhouette(points, clusters, seed)
    return Clustering(clusters, len(numbers), silhouette, np.array(medoids, int))


def carry_over(
    found: Clustering, fitted: Array, points: Array, rows: Array, *, seed: int = 0
) -> Clustering:
    """Return the clusters of a pool that changed since they were found.

    A scan that was there keeps its cluster, a new one joins the nearest; a cluster that lost all
    its scans is gone. Silhouette and threshold stay as they were measured.

    Args:
        found: The clusters of the former pool.
        fitted: Where its scans lay, shape (f, m).
        points: Where the scans lie now, on the same map, shape (n, m).
        rows: Which former row each of them was, shape (n,); -1 for a new one.
    """
    clusters = np.where(rows >= 0, found.clusters[rows], -1)
    new = clusters < 0
    clusters[new] = assign(points[new], centroids(fitted, found.clusters))
    described = describe(points, _by_size(clusters), seed=seed)
    return replace(described, silhouette=found.silhouette, threshold=found.threshold)


def centroids(points: Array, clusters: Array) -> Array:
    """Return the mean place of each cluster 0 .. k - 1, shape (k, m)."""
    sums = [np.bincount(clusters, weights=axis) for axis in points.T]
    return np.column_stack(sums) / np.bincount(clusters)[:, None]


def _kmeans(points: Array, k: int, seed: int) -> tuple[Array, Array]:
    with warnings.catch_warnings():
        # Points closer than rounding may share a centre; fewer clusters are then the truth.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Threads add up in any order, and one rounding error may move a scan.
        with _threads().limit(limits=1):
            fitted = KMeans(k, n_init=STARTS, random_state=seed).fit(points)
    used = np.unique(fitted.labels_)
    return fitted.labels_, fitted.cluster_centers_[used]


def _null_silhouette(points: Array, k: int, seed: int) -> float:
    """Return the 95th percentile of the silhouettes that k clusters of uniform points have."""
    rng = np.random.default_rng(seed)
    size = (min(len(points), pool.SAMPLE), points.shape[1])
    low, high = points.min(axis=0), points.max(axis=0)
    scores = []
    for _ in range(NULLS):
        uniform = rng.uniform(low, high, size)
        scores.append(_silhouette(uniform, _kmeans(uniform, k, seed)[0], seed))
    return float(np.percentile(scores, PERCENTILE))


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _by_size(labels: Array) -> Array:
    """Return the labels renumbered from the largest cluster on, then by lowest row."""
    _, first, codes, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    ranks: Array = np.empty(len(counts), int)
    ranks[np.lexsort((first, -counts))] = np.arange(len(counts))
    return ranks[codes]


def _silhouette(points: Array, labels: Array, seed: int) -> float:
    rows = sample(np.arange(len(points)), seed)
    if not 2 <= len(np.unique(labels[rows])) < len(rows):
        return math.nan
    return float(silhouette_score(points[rows], labels[rows]))


def _medoid(points: Array, rows: Array, seed: int) -> int:
    """Return the medoid, of a large cluster that of a sample (CLARA: Kaufman & Rousseeuw 1990)."""
    candidates = sample(rows, seed)
    sums = cdist(points[candidates], points[candidates]).sum(axis=1)
    return int(candidates[np.argmin(sums)])
