"""Which scans to label before any model exists.

Source: arXiv 2601.18532, section 3.1: clusters on the map, their number by mean silhouette, a
medoid for each, the rest of the budget in proportion to the clusters' sizes. docs/method.md says
what the paper leaves open.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from model import projection as maps

Array = npt.NDArray[Any]

MOST_CLUSTERS = 50
LARGE = 5_000  # from here on silhouettes and medoids are judged on a sample
SAMPLE = 2_000
CHUNK = 1_000
GREEDY = 2_000  # scans chosen one by one, labelled ones included; picking all would take n ** 2
WEAK = 0.25  # Kaufman & Rousseeuw 1990: no substantial structure at or below this silhouette


@dataclass(frozen=True, eq=False)
class Clustering:
    """Clusters of a map, numbered from the largest on.

    Attributes:
        clusters: Number of each row's cluster, shape (n,).
        k: How many clusters there are.
        silhouette: Mean silhouette in [-1, 1]; NaN when k < 2 or every row is its own cluster.
        medoids: Row of each cluster with the least summed distance to the others, shape (k,).
    """

    clusters: Array
    k: int
    silhouette: float
    medoids: Array


@dataclass(frozen=True, eq=False)
class ColdStart:
    """An order of the whole unlabelled pool, and the clusters it rests on.

    Attributes:
        order: Unlabelled rows, sooner is better; without labels the first `budget` are the choice.
        map: Where distances were measured, shape (n, 2), or the coordinates that were given.
        clusters: Number of each row's cluster, shape (n,), 0 the largest.
        k: How many clusters there are.
        silhouette: Mean silhouette of the clusters; NaN when there are fewer than two.
        medoids: Row of each cluster's medoid, shape (k,).
        warnings: What a person should know before trusting the order.
    """

    order: Array
    map: Array
    clusters: Array
    k: int
    silhouette: float
    medoids: Array
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Pool:
    points: Array  # (n, m)
    budget: int
    labelled: Array  # (n,) bool
    groups: Array  # (n,)
    seed: int


def select(  # noqa: PLR0913  # the contract's keywords
    embeddings: Array,
    budget: int,
    *,
    strategy: str = "medoids",
    projection: str = "tsne",
    coordinates: Array | None = None,
    labelled: Array | None = None,
    groups: Array | None = None,
    seed: int = 0,
) -> ColdStart:
    """Return the pool in the order in which it should be labelled while no model exists.

    Labelling scans in this order leaves the order of the rest as it was, for the first 2,000 scans
    or `budget`. Beyond them scans come by their distance to those, clusters interleaved.

    Args:
        embeddings: Shape (n, d); of their number only n is used when `coordinates` are given.
        budget: Scans that the cold start may choose, at least 1; may exceed n.
        coordinates: Map to use, shape (n, m); by default `projection` of the embeddings.
        labelled: Already chosen, shape (n,) bool; they use up their clusters' shares.
        groups: Group of each scan, shape (n,): untouched groups come first.

    Raises:
        ValueError: If the strategy is unknown or an argument has the wrong shape.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown cold start {strategy!r}: use one of {', '.join(STRATEGIES)}")
    if budget < 1:
        raise ValueError(f"budget is {budget}: a cold start needs at least 1 scan")
    n = len(embeddings)
    if coordinates is None:
        coordinates = maps.fit(embeddings, method=projection, seed=seed).coordinates
    coordinates = np.asarray(coordinates)
    labels = np.zeros(n, bool) if labelled is None else np.asarray(labelled)
    names = np.arange(n) if groups is None else np.asarray(groups)
    check_pool(n, coordinates, labels, names)
    pool = _Pool(np.asarray(coordinates, np.float64), budget, labels, names, seed)
    order, found = STRATEGIES[strategy](pool)
    notes = _notes(pool.points, found)
    return ColdStart(
        order, coordinates, found.clusters, found.k, found.silhouette, found.medoids, notes
    )


def cluster(points: Array, limit: int, *, seed: int = 0) -> Clustering:
    """Return the k-means clustering of highest mean silhouette for k = 2 .. min(limit, 50).

    Args:
        points: The map, shape (n, m).
        limit: Most clusters wanted; each will get a medoid out of the budget.
        seed: Of k-means and of the sample that stands for a pool from 5,000 scans on.

    One cluster comes back where two cannot be told apart; ties go to the smaller k.
    """
    n = len(points)
    highest = min(limit, MOST_CLUSTERS, n - 1, len(np.unique(points, axis=0)))
    best: Array = np.zeros(n, int)
    best_score = -np.inf
    for k in range(2, highest + 1):
        labels = _kmeans(points, k, seed)
        score = _silhouette(points, labels, seed)
        if score > best_score:
            best, best_score = labels, score
    return describe(points, _by_size(best), seed=seed)


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


def allocate(sizes: Array, total: int) -> Array:
    """Return how many scans each cluster gives, shape (k,), summing to min(total, all scans).

    One from each cluster, the rest in proportion to size by largest remainder; a cluster that is
    used up passes its claim on. Ties go to the lower number.

    Args:
        sizes: Scans in each cluster, shape (k,), all at least 1.
        total: Scans to give, at least k.
    """
    sizes = np.asarray(sizes, int)
    if total < len(sizes):
        raise ValueError(f"{total} scans for {len(sizes)} clusters: at least one each is needed")
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


def check_pool(n: int, coordinates: Array, labelled: Array, groups: Array) -> None:
    """Raise ValueError unless all describe n scans and the coordinates are finite."""
    if labelled.shape != (n,) or labelled.dtype != bool:
        raise ValueError(
            f"labelled is {labelled.dtype} of shape {labelled.shape}: expected a mask, bool ({n},)"
        )
    if coordinates.ndim != 2 or len(coordinates) != n:
        raise ValueError(f"coordinates have shape {coordinates.shape}: expected ({n}, m)")
    if not np.isfinite(coordinates).all():
        raise ValueError("coordinates hold NaN or infinity: fit the map on finite embeddings")
    if groups.shape != (n,):
        raise ValueError(f"groups have shape {groups.shape}: expected one a scan, ({n},)")


def _medoids(pool: _Pool) -> tuple[Array, Clustering]:
    found = cluster(pool.points, pool.budget, seed=pool.seed)
    walk = _Walk(pool, found)
    labelled = int(pool.labelled.sum())
    end = min(max(pool.budget, GREEDY), len(pool.labelled))
    greedy = np.array([walk.step() for _ in range(labelled, end)], int)
    return np.concatenate([greedy, walk.rest()]), found


STRATEGIES: Mapping[str, Callable[[_Pool], tuple[Array, Clustering]]] = {"medoids": _medoids}


class _Walk:
    """Chooses one scan after another: a medoid for each cluster, then farthest points.

    A step looks only at which scans are chosen, not at how they came to be: a labelled prefix of
    the order therefore leaves the rest as it was. Arrays are sorted by cluster, then row, so that
    a cluster is a slice and the first of equals is the lowest row.
    """

    def __init__(self, pool: _Pool, found: Clustering) -> None:
        self._rows = np.argsort(found.clusters, kind="stable")
        self._points = pool.points[self._rows]
        self._clusters = found.clusters[self._rows]
        ends = np.searchsorted(self._clusters, np.arange(found.k + 1))
        self._spans = [slice(start, end) for start, end in pairwise(ends)]
        self._sizes = np.diff(ends)
        self._quotas = allocate(self._sizes, pool.budget)
        self._counts = np.zeros(found.k, int)
        # Before its first choice a cluster prefers its medoid, then what lies next to it.
        centres = pool.points[found.medoids[self._clusters]]
        self._distance = -np.linalg.norm(self._points - centres, axis=1)
        self._open_groups(pool.groups[self._rows])
        for position in np.flatnonzero(pool.labelled[self._rows]):
            self._choose(int(position))

    def step(self) -> int:
        """Choose the next scan and return its row."""
        span = self._spans[self._neediest()]
        distance = np.where(self._allowed[span], self._distance[span], -np.inf)
        position = int(span.start + np.argmax(distance))
        self._choose(position)
        return int(self._rows[position])

    def rest(self) -> Array:
        """Return the rows not chosen yet by their present distances, clusters interleaved."""
        left = np.flatnonzero(~self._chosen)
        left = left[np.lexsort((-self._distance[left], self._clusters[left]))]
        clusters = self._clusters[left]
        place = np.arange(len(left)) - np.searchsorted(clusters, clusters)
        filled = (self._counts[clusters] + 1 + place) / self._sizes[clusters]
        rows: Array = self._rows[left[np.lexsort((clusters, filled, ~self._allowed[left]))]]
        return rows

    def _neediest(self) -> int:
        """Return the cluster whose share one more scan would fill least, empty clusters first."""
        candidates, goals = self._available > 0, self._sizes
        within = candidates & (self._counts < self._quotas)
        if within.any():
            candidates, goals = within, self._quotas
        filled = np.where(self._counts == 0, 0, (self._counts + 1) / goals)
        return int(np.argmin(np.where(candidates, filled, np.inf)))

    def _choose(self, position: int) -> None:
        number = self._clusters[position]
        span = self._spans[number]
        distance = cdist(self._points[span], self._points[position : position + 1])[:, 0]
        first = self._counts[number] == 0
        self._distance[span] = distance if first else np.minimum(self._distance[span], distance)
        self._counts[number] += 1
        self._chosen[position] = True
        self._close(self._partners[self._codes[position]])

    def _open_groups(self, groups: Array) -> None:
        self._chosen = np.zeros(len(groups), bool)
        self._partners, self._codes = _partners(groups)
        self._allow(~self._chosen)

    def _close(self, partners: Array) -> None:
        partners = partners[self._allowed[partners]]
        self._allowed[partners] = False
        self._available -= np.bincount(self._clusters[partners], minlength=len(self._spans))
        if not self._available.any():  # every group is touched: from now on each scan is its own
            self._partners, self._codes = _partners(np.arange(len(self._chosen)))
            self._allow(~self._chosen)

    def _allow(self, allowed: Array) -> None:
        self._allowed = allowed
        self._available = np.bincount(self._clusters[allowed], minlength=len(self._spans))


def _partners(groups: Array) -> tuple[list[Array], Array]:
    """Return the positions of each group, and the index of each position's group."""
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    positions = np.argsort(codes, kind="stable")
    return np.split(positions, np.cumsum(counts)[:-1]), codes


def _kmeans(points: Array, k: int, seed: int) -> Array:
    with warnings.catch_warnings():
        # Points closer than rounding may share a centre; fewer clusters are then the truth.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels: Array = KMeans(k, n_init=10, random_state=seed).fit_predict(points)
    return labels


def _by_size(labels: Array) -> Array:
    """Return the labels renumbered from the largest cluster on, then by lowest row."""
    _, first, codes, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    ranks: Array = np.empty(len(counts), int)
    ranks[np.lexsort((first, -counts))] = np.arange(len(counts))
    return ranks[codes]


def _silhouette(points: Array, labels: Array, seed: int) -> float:
    rows = _sample(np.arange(len(points)), seed)
    if not 2 <= len(np.unique(labels[rows])) < len(rows):
        return float("nan")
    return float(silhouette_score(points[rows], labels[rows]))


def _medoid(points: Array, rows: Array, seed: int) -> int:
    others = points[_sample(rows, seed)]
    chunks = (points[rows[start : start + CHUNK]] for start in range(0, len(rows), CHUNK))
    sums = np.concatenate([cdist(chunk, others).sum(axis=1) for chunk in chunks])
    return int(rows[np.argmin(sums)])


def _sample(rows: Array, seed: int) -> Array:
    if len(rows) < LARGE:
        return rows
    return np.random.default_rng(seed).choice(rows, SAMPLE, replace=False)


def _notes(points: Array, found: Clustering) -> tuple[str, ...]:
    if len(points) > 1 and not np.ptp(points, axis=0).any():
        return ("all scans look alike to the encoder: they come in the order of their rows",)
    if found.silhouette <= WEAK:
        return (f"the clusters are weak (mean silhouette {found.silhouette:.2f})",)
    return ()
