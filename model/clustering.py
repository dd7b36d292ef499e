"""Clusters of a map: their number, their medoids, and whether the map has clusters at all.

Source: arXiv 2601.18532, section 3.1.3: the number of clusters with the highest mean silhouette.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
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
JUDGED = 10  # to judge a map, try at least so many clusters, however small the budget
MOST_STRAYS = 0.08  # bench/collapse.py compares this threshold with rivals
MEMBERS = 4  # least average size of a cluster in the sample for k-means


@dataclass(frozen=True, eq=False)
class Clustering:
    """Clusters of a map, numbered from the largest on.

    Attributes:
        clusters: Number of each row's cluster, shape (n,).
        k: Number of clusters.
        silhouette: Mean silhouette in [-1, 1]; NaN with fewer than two clusters.
        medoids: Row of each cluster with the least summed distance to the others, shape (k,).
        strays: Share of scans' neighbours that lie in another cluster, in [0, 1], for the
            clustering of highest silhouette, whatever its k; NaN if not measured.
    """

    clusters: Array
    k: int
    silhouette: float
    medoids: Array
    strays: float = math.nan

    @property
    def collapsed(self) -> bool:
        """Whether the clusters overlap so much that the map counts as one cluster."""
        return self.strays > MOST_STRAYS  # NaN compares false


def most_clusters(n: int) -> int:
    """Return the largest k tried for a pool of n scans: 5 log2 n, so 50 for 1,000 scans."""
    return max(2, math.ceil(5 * math.log2(max(n, 2))))


def cluster(points: Array, limit: int, *, seed: int = 0) -> Clustering:
    """Return the k-means clustering of highest mean silhouette, or one cluster if there are none.

    k goes from 2 to min(limit, `most_clusters`); ties go to the smaller k. The map counts as one
    cluster if two clusters cannot be told apart, or if more than MOST_STRAYS of scans' neighbours
    lie in another cluster. Whether a map has clusters depends on the scans and not on the budget.
    So this test tries up to JUDGED clusters even if `limit` is lower.

    Args:
        points: The map, shape (n, m).
        limit: Largest number of clusters; each cluster takes a medoid from the budget.
        seed: Of k-means, and of the samples used from 5,000 scans on.
    """
    seen = points[sample(np.arange(len(points)), seed, pool.LARGE)]
    distinct = len(np.unique(seen, axis=0))
    most = min(max(limit, JUDGED), most_clusters(len(points)), len(seen) - 1, distinct)
    splits = [_split(seen, k, seed) for k in range(2, most + 1)]
    splits = [split for split in splits if not math.isnan(split.silhouette)]
    best = _best(splits)
    allowed = _best([split for split in splits if len(split.centres) <= limit])
    strays = _strays(seen, best.clusters, seed) if best else math.nan
    if allowed is None or strays > MOST_STRAYS:
        whole = describe(points, np.zeros(len(points), int), seed=seed)
        return replace(whole, silhouette=best.silhouette if best else math.nan, strays=strays)
    labels = allowed.clusters if len(seen) == len(points) else assign(points, allowed.centres)
    described = describe(points, _by_size(labels), seed=seed)
    # Keep the silhouette of k-means' own sample, like the strays: another sample may contradict it.
    return replace(described, silhouette=allowed.silhouette, strays=strays)


def partition(points: Array, k: int, *, seed: int = 0, starts: int = STARTS) -> Array:
    """Return the k-means cluster of each row, shape (n,), numbered from the largest on.

    With fewer than k distinct points there are fewer clusters. For pools from 5,000 scans on,
    k-means runs on a sample that is large enough for k clusters. It is the best of so many starts.
    """
    if not len(points):
        return np.empty(0, int)
    size = min(len(points), max(pool.LARGE, MEMBERS * k))
    seen = points[sample(np.arange(len(points)), seed, size)]
    labels, centres = _kmeans(seen, min(k, len(np.unique(seen, axis=0))), seed, starts)
    return _by_size(labels if len(seen) == len(points) else assign(points, centres))


def describe(points: Array, clusters: Array, *, seed: int = 0) -> Clustering:
    """Return the number, silhouette and medoids of given clusters.

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
    former: Clustering, fitted: Array, points: Array, rows: Array, *, seed: int = 0
) -> Clustering:
    """Return the clusters of a pool that changed since it was clustered.

    A former scan keeps its cluster, and a new scan joins the nearest cluster. A cluster that lost
    all its scans disappears. Silhouette and strays keep their values.

    Args:
        former: The clusters of the former pool.
        fitted: Coordinates of the former scans, shape (f, m).
        points: Coordinates of today's scans on the same map, shape (n, m).
        rows: Former row of each of today's scans, shape (n,); -1 for a new scan.
        seed: As in `describe`.
    """
    clusters = np.where(rows >= 0, former.clusters[rows], -1)
    new = clusters < 0
    clusters[new] = assign(points[new], centroids(fitted, former.clusters))
    described = describe(points, _by_size(clusters), seed=seed)
    return replace(described, silhouette=former.silhouette, strays=former.strays)


def centroids(points: Array, clusters: Array) -> Array:
    """Return the mean coordinates of each cluster 0 .. k - 1, shape (k, m)."""
    sums = [np.bincount(clusters, weights=axis) for axis in points.T]
    return np.column_stack(sums) / np.bincount(clusters)[:, None]


def _kmeans(points: Array, k: int, seed: int, starts: int = STARTS) -> tuple[Array, Array]:
    with warnings.catch_warnings():
        # Points closer than rounding errors may share a centre; fewer clusters are then right.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Use one thread: threads add in any order, and a rounding error may move a scan.
        with _threads().limit(limits=1):
            fitted = KMeans(k, n_init=starts, random_state=seed).fit(points)
    used = np.unique(fitted.labels_)
    return fitted.labels_, fitted.cluster_centers_[used]


@dataclass(frozen=True, eq=False)
class _Split:
    """One k-means clustering: clusters (n,), centres (k, m), and its mean silhouette."""

    clusters: Array
    centres: Array
    silhouette: float


def _split(points: Array, k: int, seed: int) -> _Split:
    clusters, centres = _kmeans(points, k, seed)
    return _Split(clusters, centres, _silhouette(points, clusters, seed))


def _best(splits: Sequence[_Split]) -> _Split | None:
    """Return the first split of highest silhouette; None without splits."""
    return max(splits, key=lambda split: split.silhouette, default=None)


def _strays(points: Array, clusters: Array, seed: int) -> float:
    """Return the share of scans' neighbours that lie in another cluster, in [0, 1].

    A scan in a cluster of m scans has m - 1 neighbours. If clusters are well separated, they all
    belong to its cluster. In a uniform pool t-SNE makes gaps that are narrower than a cluster, so
    neighbours across a gap count as strays.
    """
    rows = sample(np.arange(len(points)), seed)
    seen, numbers = points[rows], clusters[rows]
    parts = [
        _stray_shares(seen, numbers, members)
        for members in (np.flatnonzero(numbers == number) for number in np.unique(numbers))
    ]
    return float(np.concatenate(parts).mean())


def _stray_shares(points: Array, clusters: Array, members: Array) -> Array:
    """Return the share of strays among the neighbours of each member of one cluster."""
    near = max(len(members), 2)  # includes the scan itself; a scan alone is no cluster
    shares = []
    for part in pool.chunks(len(members)):
        rows = members[part]
        distances = cdist(points[rows], points)
        distances[np.arange(len(rows)), rows] = -1  # put the scan itself before its duplicates
        nearest = np.argpartition(distances, near - 1, axis=1)[:, :near]
        shares.append((clusters[nearest] != clusters[rows, None]).sum(axis=1) / (near - 1))
    return np.concatenate(shares)


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
    """Return the medoid; for a large cluster, of a sample (CLARA: Kaufman & Rousseeuw 1990)."""
    candidates = sample(rows, seed)
    sums = cdist(points[candidates], points[candidates]).sum(axis=1)
    return int(candidates[np.argmin(sums)])
