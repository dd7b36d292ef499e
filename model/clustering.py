"""Clusters of a map: how many there are, where their medoids lie, and whether they are real.

Source: arXiv 2601.18532, section 3.1.3: the number of clusters of the highest mean silhouette.
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
JUDGED = 10  # clusters looked for at least when a pool is judged, however small the budget
MOST_STRAYS = 0.08  # bench/collapse.py compares it with rivals
MEMBERS = 4  # scans a cluster has at least in the sample that k-means sees, on average


@dataclass(frozen=True, eq=False)
class Clustering:
    """Clusters of a map, numbered from the largest on.

    Attributes:
        clusters: Number of each row's cluster, shape (n,).
        k: How many clusters there are.
        silhouette: Mean silhouette in [-1, 1]; NaN when nothing could be compared.
        medoids: Row of each cluster with the least summed distance to the others, shape (k,).
        strays: Share of the neighbours of scans that lie in another cluster, in [0, 1], of the best
            clusters found, whatever their number; NaN where it was not measured.
    """

    clusters: Array
    k: int
    silhouette: float
    medoids: Array
    strays: float = math.nan

    @property
    def collapsed(self) -> bool:
        """Whether clusters run into each other, so that the map counts as one cluster."""
        return self.strays > MOST_STRAYS  # NaN compares false


def most_clusters(n: int) -> int:
    """Return the most clusters looked for in a pool of n: 5 log2 n, so 50 in 1,000 scans."""
    return max(2, math.ceil(5 * math.log2(max(n, 2))))


def cluster(points: Array, limit: int, *, seed: int = 0) -> Clustering:
    """Return the k-means clustering of highest mean silhouette, if the map has clusters at all.

    k goes from 2 to min(limit, `most_clusters`), ties to the smaller. One cluster comes back where
    two cannot be told apart, and where more than MOST_STRAYS of the neighbours of scans lie in
    another cluster. Whether a map has clusters is a question about the scans, not about the
    budget: up to JUDGED clusters are looked for to answer it, even if `limit` is lower.

    Args:
        points: The map, shape (n, m).
        limit: Most clusters wanted; each will get a medoid out of the budget.
        seed: Of k-means, and of the samples used from 5,000 scans on.
    """
    seen = points[sample(np.arange(len(points)), seed, pool.LARGE)]
    distinct = len(np.unique(seen, axis=0))
    most = min(max(limit, JUDGED), most_clusters(len(points)), len(seen) - 1, distinct)
    splits = [_split(seen, k, seed) for k in range(2, most + 1)]
    splits = [split for split in splits if not math.isnan(split.silhouette)]
    best = _best(splits)
    wanted = _best([split for split in splits if len(split.centres) <= limit])
    strays = _strays(seen, best.clusters, seed) if best else math.nan
    if wanted is None or strays > MOST_STRAYS:
        one = describe(points, np.zeros(len(points), int), seed=seed)
        return replace(one, silhouette=best.silhouette if best else math.nan, strays=strays)
    labels = wanted.clusters if len(seen) == len(points) else assign(points, wanted.centres)
    found = describe(points, _by_size(labels), seed=seed)
    # Measured on what k-means saw, as the strays are: another sample might contradict them.
    return replace(found, silhouette=wanted.silhouette, strays=strays)


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
    its scans is gone. Silhouette and strays stay as they were measured.

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
    return replace(described, silhouette=found.silhouette, strays=found.strays)


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
    """Return the split of highest silhouette, of equals the first; None without any."""
    return max(splits, key=lambda split: split.silhouette, default=None)


def _strays(points: Array, clusters: Array, seed: int) -> float:
    """Return the share of the neighbours of scans that lie in another cluster, in [0, 1].

    A scan in a cluster of m scans is asked for its m - 1 nearest neighbours: between separate
    clusters all of them are its own. The gaps that t-SNE makes in a pool of one kind are narrow
    beside a cluster, so that neighbours beyond a gap still count.
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
    near = max(len(members), 2)  # the scan itself is among them; alone it is no cluster
    shares = []
    for part in pool.chunks(len(members)):
        rows = members[part]
        distances = cdist(points[rows], points)
        distances[np.arange(len(rows)), rows] = -1  # before its duplicates
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
    """Return the medoid, of a large cluster that of a sample (CLARA: Kaufman & Rousseeuw 1990)."""
    candidates = sample(rows, seed)
    sums = cdist(points[candidates], points[candidates]).sum(axis=1)
    return int(candidates[np.argmin(sums)])
