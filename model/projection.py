"""The map: scan embeddings laid out in the plane, where clusters and distances are measured.

Source: arXiv 2601.18532, section 3.1 (t-SNE of frozen embeddings). docs/method.md says what the
paper leaves open.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openTSNE
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

Array = npt.NDArray[Any]

LARGE = 5_000  # from here on landmarks are laid out, and the rest is placed among them
COMPONENTS = 50
FEWEST = 5  # distinct rows that a neighbour method needs
NEIGHBOURS = 5
CHUNK = 1_000


@dataclass(frozen=True, eq=False)
class Projection:
    """A fitted map: where the pool lies, and what is needed to place new scans on it.

    Attributes:
        coordinates: The pool on the map, shape (n, 2), float32.
        mean: Subtracted from embeddings before `directions`, shape (d,).
        directions: Principal directions, shape (p, d); none (p = 0) leaves embeddings as they are.
        anchors: Embeddings (after `directions`) of the scans laid out, shape (a, p or d); none
            (a = 0) makes the map linear.
        places: Where the anchors lie, shape (a, 2).
    """

    coordinates: Array
    mean: Array
    directions: Array
    anchors: Array
    places: Array

    def transform(self, new: Array) -> Array:
        """Return where new scans lie on the map, shape (k, 2), float32.

        A linear map projects them. On a t-SNE or UMAP map a scan goes to the median place of its
        five nearest anchors, so that it joins a neighbourhood rather than the gap between two; a
        scan that equals an anchor goes to that anchor. The map itself does not move.

        Args:
            new: Embeddings, shape (k, d).
        """
        rows = _checked(new)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"embeddings have {rows.shape[1]} features, the map was fitted on"
                f" {len(self.mean)}: use the encoder that it was fitted with"
            )
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        return np.concatenate([np.empty((0, 2), np.float32), *map(self._place, chunks)])

    def save(self, path: str | Path) -> None:
        """Write the projection to `path` as an npz archive, without pickle."""
        with Path(path).open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Return the projection that `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{field.name: archive[field.name] for field in fields(cls)})

    def _place(self, rows: Array) -> Array:
        reduced = _reduce(rows, self.mean, self.directions)
        if not len(self.anchors):
            return reduced.astype(np.float32)
        nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(self.anchors)
        distances, neighbours = nearest.kneighbors(reduced)
        places = np.median(self.places[neighbours], axis=1)  # (k, 5, 2) -> (k, 2)
        # Rounding leaves equal rows a hair apart, so "equal" means far below the usual distance.
        known = distances[:, 0] <= 1e-3 * distances[:, -1]
        places[known] = self.places[neighbours[known, 0]]
        return np.asarray(places, np.float32)


def fit(embeddings: Array, *, method: str = "tsne", seed: int = 0) -> Projection:
    """Return the map of a pool.

    From 5,000 scans on, PCA to 50 dimensions comes first, 5,000 seeded landmarks are laid out, and
    the other scans are placed by `transform`. Fewer than five distinct embeddings have no
    neighbourhoods to keep, nor has a single feature: PCA maps them whatever the method.

    Args:
        embeddings: Shape (n, d), n >= 0; may be memory-mapped, never copied whole.
        method: "tsne", "umap" or "pca".
        seed: Of the layout and of the landmarks.

    Raises:
        ValueError: If the method is unknown, or an embedding is not finite.
    """
    if method not in ("pca", *LAYOUTS):
        raise ValueError(f"unknown projection {method!r}: use one of pca, {', '.join(LAYOUTS)}")
    pool = _checked(embeddings)
    rows = _landmarks(len(pool), seed)
    sample = np.asarray(pool[rows], np.float64)
    flat = pool.shape[1] < 2 or len(np.unique(sample, axis=0)) < FEWEST
    if method == "pca" or flat:
        return _linear_map(pool, sample, seed)
    return _neighbour_map(pool, rows, sample, LAYOUTS[method], seed)


def _linear_map(pool: Array, sample: Array, seed: int) -> Projection:
    mean, found = _principal(sample, 2, seed)
    directions = np.zeros((2, pool.shape[1]))
    directions[: len(found)] = found
    none: Array = np.empty((0, 2))
    unplaced = Projection(none, mean, directions, none, none)
    return replace(unplaced, coordinates=unplaced.transform(pool))


def _neighbour_map(
    pool: Array, rows: Array, sample: Array, layout: Callable[[Array, int], Array], seed: int
) -> Projection:
    mean: Array = np.zeros(pool.shape[1])
    directions: Array = np.empty((0, pool.shape[1]))
    if len(pool) >= LARGE:
        mean, directions = _principal(sample, COMPONENTS, seed)
    anchors = _reduce(sample, mean, directions)
    places = layout(anchors, seed).astype(np.float32)
    anchors = anchors.astype(np.float32)
    projection = Projection(places, mean, directions, anchors, places)
    if len(rows) == len(pool):
        return projection
    coordinates = projection.transform(pool)
    coordinates[rows] = places
    return replace(projection, coordinates=coordinates)


def _tsne(anchors: Array, seed: int) -> Array:
    others = len(anchors) - 1
    return np.asarray(
        openTSNE.TSNE(
            perplexity=min(30, others / 3),  # a third is the most that n scans allow
            initialization="pca",
            # Exact search, Barnes-Hut, one thread: the same map whatever the machine's cores.
            neighbors="exact",
            negative_gradient_method="bh",
            n_jobs=1,
            random_state=seed,
        ).fit(anchors)
    )


def _umap(anchors: Array, seed: int) -> Array:
    with warnings.catch_warnings():
        # It misses TensorFlow, for a class that is not used here.
        warnings.simplefilter("ignore", ImportWarning)
        import umap  # takes 12 to 40 s, so only those who ask for it wait
    neighbours = min(15, len(anchors) - 1)
    layout = umap.UMAP(n_neighbors=neighbours, init="pca", random_state=seed, n_jobs=1)
    return np.asarray(layout.fit_transform(anchors))


LAYOUTS: Mapping[str, Callable[[Array, int], Array]] = {"tsne": _tsne, "umap": _umap}


def _principal(sample: Array, components: int, seed: int) -> tuple[Array, Array]:
    if len(np.unique(sample, axis=0)) < 2:
        # The directions of rounding errors would tell equal scans apart.
        mean = sample[0] if len(sample) else np.zeros(sample.shape[1])
        return mean, np.empty((0, sample.shape[1]))
    pca = PCA(min(components, *sample.shape), random_state=seed).fit(sample)
    return pca.mean_, pca.components_


def _reduce(rows: Array, mean: Array, directions: Array) -> Array:
    reduced: Array = (rows - mean) @ directions.T if len(directions) else np.asarray(rows)
    return reduced


def _landmarks(n: int, seed: int) -> Array:
    if n <= LARGE:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, LARGE, replace=False))


def _checked(embeddings: Array) -> Array:
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"embeddings have shape {rows.shape}: expected (n, d) with d >= 1")
    with np.errstate(invalid="ignore"):  # inf - inf is one of the things looked for
        bad = np.flatnonzero(~np.isfinite(rows.sum(axis=1, dtype=np.float64)))
    if bad.size:
        raise ValueError(
            f"embeddings of {bad.size} rows are NaN or infinite, first row {bad[0]}:"
            " leave those scans out or encode them again"
        )
    return rows
