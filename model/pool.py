"""Helpers of all query strategies: checks of the pool, turns of groups, and distances.

Scans are rows, never task ids. From 5,000 scans on, seeded samples represent the pool, because
silhouettes, medoids and kernels cost the square of the number of scans.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from model.spread import Spread

Array = npt.NDArray[Any]

LARGE = 5_000  # from so many scans on, a sample represents the pool
SAMPLE = 2_000
CHUNK = 512  # rows compared at once: their distances to a sample fit into the processor's cache
GREEDY = 1_000  # scans chosen one by one unless the budget is larger; for all it costs n ** 2
FEW_AXES = 8  # up to so many axes a tree finds neighbours faster than comparing all pairs


def check(
    n: int,
    coordinates: Array,
    labelled: Array,
    groups: Array,
    sources: Array | None = None,
    places: Array | None = None,
) -> None:
    """Raise ValueError unless all arrays describe n scans and the coordinates are finite."""
    if labelled.shape != (n,) or labelled.dtype != bool:
        raise ValueError(
            f"labelled is {labelled.dtype} of shape {labelled.shape}: expected a mask, bool ({n},)"
        )
    if coordinates.ndim != 2 or len(coordinates) != n:
        raise ValueError(f"coordinates have shape {coordinates.shape}: expected ({n}, m)")
    if not np.isfinite(coordinates).all():
        raise ValueError("coordinates hold NaN or infinity: fit the map on finite embeddings")
    if groups.shape != (n,):
        raise ValueError(f"groups have shape {groups.shape}: expected a group per scan, ({n},)")
    if sources is not None and sources.shape != (n,):
        raise ValueError(f"sources have shape {sources.shape}: expected a source per scan, ({n},)")
    if places is not None and (places.shape != (n,) or np.isinf(places).any()):
        raise ValueError(
            f"places have shape {places.shape}: expected a number per scan, ({n},), NaN if unknown"
        )


class Shares:
    """Which source (hospital, scanner, view) gives the next scan.

    It is the source with the smallest share of its scans chosen. So every source gives a scan
    before any gives its second, and later the shares are proportional to the sizes, rounded up
    (Adams' apportionment). Of equal sources the smallest comes first; if there are more sources
    than picks, the largest, because then the picks cannot reach all of them.

    Args:
        sources: Source of each scan, shape (n,).
        labelled: Scans that were chosen before, shape (n,) bool.
        picks: Number of scans to choose, the labelled included.
    """

    def __init__(self, sources: Array, labelled: Array, picks: int) -> None:
        names, self._numbers = np.unique(sources, return_inverse=True)
        self._sizes = np.bincount(self._numbers, minlength=len(names))
        self._counts = np.bincount(self._numbers[labelled], minlength=len(names))
        self._rank = self._sizes if len(names) <= picks else -self._sizes

    def due(self, candidates: Array) -> Array:
        """Return the candidates of the sources that are next, shape (n,) bool; several if equal."""
        waiting = np.bincount(self._numbers[candidates], minlength=len(self._sizes)) > 0
        taken = np.where(waiting, self._counts / self._sizes, np.inf)
        due = taken == taken.min()
        due &= self._rank == self._rank[due].min()
        return np.asarray(candidates & due[self._numbers])

    def take(self, row: int) -> None:
        """Note that a scan was chosen."""
        self._counts[self._numbers[row]] += 1

    def keys(self, rows: Array) -> tuple[Array, Array]:
        """Return the keys that bring rows into their sources' turns, for np.lexsort; (r,) each.

        Args:
            rows: Rows not chosen yet; those of one source keep their order.
        """
        numbers = self._numbers[rows]
        by_source = np.argsort(numbers, kind="stable")
        place = np.empty(len(rows), int)
        place[by_source] = np.arange(len(rows)) - np.searchsorted(
            numbers[by_source], numbers[by_source]
        )
        taken = (self._counts[numbers] + place) / self._sizes[numbers]
        return self._rank[numbers], taken


class Turns:
    """Which scans may come next: first those of untouched groups, then all remaining scans.

    Of the remaining scans those near a chosen one of their group wait, if places are given
    (`Spread`). Among these it is the turn of a source, if sources are given (`Shares`).

    Args:
        groups: Group of each scan, shape (n,).
        labelled: Scans that must not be chosen, shape (n,) bool; their groups count as touched.
        sources: Source of each scan, shape (n,).
        picks: Number of scans to choose, the labelled included; only sources need it.
        places: Place of each scan in its group, shape (n,), NaN if unknown.
    """

    def __init__(
        self,
        groups: Array,
        labelled: Array,
        sources: Array | None = None,
        picks: int = 0,
        places: Array | None = None,
    ) -> None:
        self._groups = groups
        self._left = ~labelled
        self._fresh = self._left & ~np.isin(groups, groups[labelled])
        self._shares = None if sources is None else Shares(sources, labelled, picks)
        self._spread = None if places is None else Spread(groups, places, labelled)

    @property
    def left(self) -> Array:
        """The scans not chosen yet, shape (n,) bool."""
        return self._left

    @property
    def allowed(self) -> Array:
        """The scans that may come next, shape (n,) bool; at least one must be left."""
        allowed = self._fresh if self._fresh.any() else self._left
        if self._spread and not self._fresh.any():
            allowed = self._spread.far(allowed)
        return self._shares.due(allowed) if self._shares else allowed

    def take(self, row: int) -> None:
        """Note that a scan was chosen."""
        self._left[row] = False
        self._fresh[self._groups == self._groups[row]] = False
        if self._shares:
            self._shares.take(row)
        if self._spread:
            self._spread.take(row)

    def first(self, order: Array) -> Array:
        """Return the rows by their turns; else they keep their order.

        It is the order of single steps, as long as no group has scans of several sources. With
        places it is near to that: slices come by the gaps that they halve.
        """
        opens = np.zeros(len(order), bool)
        opens[np.unique(self._groups[order], return_index=True)[1]] = True
        opens &= self._fresh[order]
        others = order[~opens]
        if self._spread:
            levels = self._spread.levels(others, order[opens])
            others = others[np.argsort(levels, kind="stable")]
        rows: Array = np.concatenate([order[opens], others])
        if self._shares is None:
            return rows
        later = np.arange(len(rows)) >= opens.sum()
        return np.asarray(rows[np.lexsort((*self._shares.keys(rows), later))])


def sample(rows: Array, seed: int, size: int | None = None) -> Array:
    """Return the rows; from 5,000 on, `size` (2,000) rows drawn by the seed, ascending."""
    if len(rows) < LARGE:
        return rows
    drawn = np.random.default_rng(seed).choice(rows, size or SAMPLE, replace=False)
    return np.sort(drawn)


def nearest(points: Array, chosen: Array) -> Array:
    """Return each point's distance to the nearest chosen point, shape (n,); inf if none is chosen.

    Args:
        points: Shape (n, m).
        chosen: Shape (c, m).
    """
    if not len(chosen):
        return np.full(len(points), np.inf)
    if points.shape[1] <= FEW_AXES:
        return np.asarray(cKDTree(chosen).query(points)[0])
    return _joined(_nearest_of(points[part], chosen) for part in chunks(len(points)))


def neighbours(points: Array, others: Array, number: int) -> Array:
    """Return the rows of each point's nearest others, nearest first, shape (n, number).

    Args:
        points: Shape (n, m).
        others: Shape (o, m).
        number: At least 1, at most o.
    """
    if points.shape[1] <= FEW_AXES:
        rows = cKDTree(others).query(points, k=number)[1]
        return np.asarray(rows).reshape(-1, number)
    found = NearestNeighbors(n_neighbors=number, algorithm="brute").fit(others)
    return np.asarray(found.kneighbors(points, return_distance=False))


def assign(points: Array, centres: Array) -> Array:
    """Return the index of each point's nearest centre, shape (n,); ties go to the lower index."""
    parts = (cdist(points[part], centres).argmin(axis=1) for part in chunks(len(points)))
    return _joined(parts).astype(int)


def farthest_first(points: Array, chosen: Array, rows: Array) -> Array:
    """Return the rows by distance to the nearest chosen row, farthest first, then by row.

    Args:
        points: The pool, shape (n, m).
        chosen: Rows already chosen, shape (c,).
        rows: Rows to order, ascending, shape (r,).
    """
    return rows[np.argsort(-nearest(points[rows], points[chosen]), kind="stable")]


def _nearest_of(points: Array, chosen: Array) -> Array:
    best = np.full(len(points), np.inf)
    for part in chunks(len(chosen)):
        np.minimum(best, cdist(points, chosen[part]).min(axis=1), out=best)
    return best


def chunks(n: int) -> Iterator[slice]:
    """Yield slices that cover n rows."""
    return (slice(start, start + CHUNK) for start in range(0, n, CHUNK))


def _joined(parts: Iterator[Array]) -> Array:
    arrays = list(parts)
    return np.concatenate(arrays) if arrays else np.empty(0)
