"""The map: a projection of embeddings, in which clusters and distances are measured.

Source: arXiv 2601.18532, section 3.1 (t-SNE of frozen embeddings). docs/method.md lists the choices
that the paper leaves open. The methods "none" and "components" measure in the embedding itself;
"auto" takes one of these two.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openTSNE
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from model import clustering, diagnostics, pool, scaling
from model.registry import PROJECTIONS

Array = npt.NDArray[Any]

COMPONENTS = 50
LEADING = 16  # components of the method "components"
FEWEST = 5  # distinct rows that t-SNE and UMAP need
NEIGHBOURS = 5
PERPLEXITY = 30.0
CHUNK = 1_000


@dataclass(frozen=True, eq=False)
class Projection:
    """A fitted map: coordinates of the pool, and the data to place new scans.

    Attributes:
        coordinates: The pool on the map, shape (n, 2), or (n, m) for "components" with m <= 16 and
            "none" with m <= 50; float32.
        mean: Subtracted from scaled embeddings before `directions`, shape (d,).
        directions: Principal directions, shape (p, d); p = 0 leaves embeddings as they are.
        anchors: Embeddings (after `directions`) of the scans that the map was fitted on, shape
            (a, p or d); a = 0 for a linear map.
        places: Coordinates of the anchors, shape (a, 2).
        unit: Whether coordinates are scaled to length 1, shape ().
        trustworthiness: Of the map for 10 neighbours, on at most 2,000 scans, shape ().
        cosine: Median cosine between two embeddings, on at most 2,000 scans, shape ().
        scale: Factor of each feature of an embedding, shape (d,), or () for 1.
    """

    coordinates: Array
    mean: Array
    directions: Array
    anchors: Array
    places: Array
    unit: Array = field(default_factory=lambda: np.array(False))
    trustworthiness: Array = field(default_factory=lambda: np.array(np.nan))
    cosine: Array = field(default_factory=lambda: np.array(np.nan))
    scale: Array = field(default_factory=lambda: np.array(1.0))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that a person should read before trusting distances on this map."""
        return diagnostics.domain(float(self.trustworthiness), float(self.cosine))

    def transform(self, new: Array) -> Array:
        """Return the coordinates of new scans on the map, shape (k, m), float32.

        A linear map projects them. On a t-SNE or UMAP map, a scan goes to the median place of its
        five nearest anchors: it joins a neighbourhood and not the gap between two. A scan that
        equals an anchor goes to that anchor. The map itself does not change.

        Args:
            new: Embeddings, shape (k, d).
        """
        rows = _checked(new)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"embeddings have {rows.shape[1]} features, the map was fitted on"
                f" {len(self.mean)}: use the encoder that it was fitted with"
            )
        place = self._linearly if not len(self.anchors) else self._beside_anchors()
        placed = np.empty((len(rows), self.places.shape[1]), np.float32)
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            scaled = _scaled(rows[part], self.scale)
            placed[part] = place(_reduce(scaled, self.mean, self.directions))
        return placed

    def save(self, path: str | Path) -> None:
        """Write the projection to `path` as an npz archive, without pickle."""
        with Path(path).open("wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Return the projection from a file of `save`, of this release or an earlier one."""
        with np.load(path, allow_pickle=False) as archive:
            # Maps of the first release lack a scale; to fit them again would change a live queue.
            names = [known.name for known in fields(cls)]
            return cls(**{n: archive[n] for n in names if n in archive or n != "scale"})

    def _linearly(self, reduced: Array) -> Array:
        if not self.unit:
            return reduced
        lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
        unit: Array = np.divide(reduced, lengths, out=np.zeros_like(reduced), where=lengths > 0)
        return unit

    def _beside_anchors(self) -> Callable[[Array], Array]:
        nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(self.anchors)

        def place(reduced: Array) -> Array:
            distances, neighbours = nearest.kneighbors(reduced)
            places: Array = np.median(self.places[neighbours], axis=1)  # (k, 5, 2) -> (k, 2)
            # Rounding separates equal rows a little: "equal" means far below the usual distance.
            known = distances[:, 0] <= 1e-3 * distances[:, -1]
            places[known] = self.places[neighbours[known, 0]]
            return places

        return place


def fit(
    embeddings: Array,
    *,
    method: str = "tsne",
    seed: int = 0,
    perplexity: float = PERPLEXITY,
    widths: Sequence[int] = (),
) -> Projection:
    """Return the map of a pool.

    From 5,000 scans on, PCA reduces to 50 dimensions, the map is fitted on 5,000 seeded landmarks,
    and `transform` places the other scans. With fewer than five distinct embeddings, or a single
    feature, there are no neighbourhoods to keep: PCA then replaces t-SNE and UMAP.

    Args:
        embeddings: Shape (n, d), n >= 0; may be memory-mapped, and is never copied as a whole.
        method: "tsne", "umap", "pca" in two dimensions, or the embedding itself: "none" reduces it
            to at most 50 principal components and scales it to length 1, so that distances follow
            cosines; "components" keeps the lengths of at most 16. "auto" is "components" if that
            shows clusters, else "none".
        seed: Of the layout and of the landmarks.
        perplexity: Of t-SNE, above 1; lowered to a third of the number of other scans.
        widths: The encoder's. Several parts are brought to one scale (`scaling.factors`).

    Raises:
        ValueError: If the method is unknown, an embedding is not finite, or the widths are those
            of other embeddings.
    """
    if method not in PROJECTIONS:
        raise ValueError(f"unknown projection {method!r}: use one of {', '.join(PROJECTIONS)}")
    if not perplexity > 1:
        raise ValueError(f"perplexity is {perplexity}: expected a number above 1, such as 30")
    rows = _checked(embeddings)
    chosen = _landmarks(len(rows), seed)
    landmarks = np.asarray(rows[chosen], np.float64)
    scale = scaling.factors(landmarks, widths)
    landmarks = _scaled(landmarks, scale)
    flat = rows.shape[1] < 2 or len(np.unique(landmarks, axis=0)) < FEWEST
    if method in {"auto", "components", "none"}:
        asked = "none" if method == "auto" and flat else method
        fitted = _embedding_itself(rows, scale, landmarks, asked, seed)
    elif method == "pca" or flat:
        fitted = _linear_map(rows, scale, _axes(landmarks, 2, 2, seed), unit=False)
    else:
        place = _umap if method == "umap" else partial(_tsne, perplexity=perplexity)
        fitted = _neighbour_map(rows, scale, chosen, landmarks, place, seed)
    return _judged(fitted, rows, seed)


def _embedding_itself(
    rows: Array, scale: Array, landmarks: Array, method: str, seed: int
) -> Projection:
    """Return its leading components with their lengths, or more of them scaled to length 1."""
    if method != "none":
        axes = _axes(landmarks, 1, LEADING, seed)
        if method == "components" or _shows_kinds(_reduce(landmarks, *axes), seed):
            return _linear_map(rows, scale, axes, unit=False)
    return _linear_map(rows, scale, _axes(landmarks, 1, COMPONENTS, seed), unit=True)


def _linear_map(rows: Array, scale: Array, axes: tuple[Array, Array], *, unit: bool) -> Projection:
    mean, directions = axes
    none: Array = np.empty((0, len(directions)))
    unplaced = Projection(none, mean, directions, none, none, np.array(unit), scale=scale)
    return replace(unplaced, coordinates=unplaced.transform(rows))


def _neighbour_map(
    rows: Array,
    scale: Array,
    chosen: Array,
    sample: Array,
    place: Callable[[Array, int], Array],
    seed: int,
) -> Projection:
    """Return a map by `place`, which lays the scaled sample out: the rows `chosen`."""
    mean: Array = np.zeros(rows.shape[1])
    directions: Array = np.empty((0, rows.shape[1]))
    if len(rows) >= pool.LARGE:
        mean, directions = _principal(sample, COMPONENTS, seed)
    anchors = _reduce(sample, mean, directions)
    places = place(anchors, seed).astype(np.float32)
    anchors = anchors.astype(np.float32)
    fitted = Projection(places, mean, directions, anchors, places, scale=scale)
    if len(chosen) == len(rows):
        return fitted
    coordinates = fitted.transform(rows)
    coordinates[chosen] = places
    return replace(fitted, coordinates=coordinates)


def _judged(fitted: Projection, rows: Array, seed: int) -> Projection:
    """Measure trustworthiness and cosine of a map on a sample of its scans."""
    judged = np.random.default_rng(seed).permutation(len(rows))[: pool.SAMPLE]
    embeddings = _scaled(np.asarray(rows[judged]), fitted.scale)
    return replace(
        fitted,
        trustworthiness=np.array(
            diagnostics.trustworthiness(embeddings, fitted.coordinates[judged])
        ),
        cosine=np.array(diagnostics.cosine(embeddings)),
    )


def _tsne(anchors: Array, seed: int, *, perplexity: float) -> Array:
    others = len(anchors) - 1
    return np.asarray(
        openTSNE.TSNE(
            perplexity=min(perplexity, others / 3),  # t-SNE allows at most a third
            initialization="pca",
            # Exact search, Barnes-Hut and one thread give the same map on every machine.
            neighbors="exact",
            negative_gradient_method="bh",
            n_jobs=1,
            random_state=seed,
        ).fit(anchors)
    )


def _umap(anchors: Array, seed: int) -> Array:
    with warnings.catch_warnings():
        # umap warns about missing TensorFlow, which only an unused class needs.
        warnings.simplefilter("ignore", ImportWarning)
        import umap  # takes 12 to 40 s: import it only when it is used
    neighbours = min(15, len(anchors) - 1)
    layout = umap.UMAP(n_neighbors=neighbours, init="pca", random_state=seed, n_jobs=1)
    return np.asarray(layout.fit_transform(anchors))


def _shows_kinds(components: Array, seed: int) -> bool:
    """Return whether scans fall into kinds that differ by their distances, so lengths matter."""
    return clustering.cluster(components, clustering.JUDGED, seed=seed).k > 1


def _axes(sample: Array, least: int, most: int, seed: int) -> tuple[Array, Array]:
    """Return the mean and the principal directions, with zeros added up to `least`."""
    mean, principal = _principal(sample, most, seed)
    directions = np.zeros((max(least, len(principal)), sample.shape[1]))
    directions[: len(principal)] = principal
    return mean, directions


def _principal(sample: Array, components: int, seed: int) -> tuple[Array, Array]:
    if len(np.unique(sample, axis=0)) < 2:
        # Without this, rounding errors would give directions that separate equal scans.
        mean = sample[0] if len(sample) else np.zeros(sample.shape[1])
        return mean, np.empty((0, sample.shape[1]))
    pca = PCA(min(components, *sample.shape), random_state=seed).fit(sample)
    return pca.mean_, pca.components_


def _scaled(rows: Array, scale: Array) -> Array:
    return rows * scale if scale.ndim else rows


def _reduce(rows: Array, mean: Array, directions: Array) -> Array:
    reduced: Array = (rows - mean) @ directions.T if len(directions) else np.asarray(rows)
    return reduced


def _landmarks(n: int, seed: int) -> Array:
    """Return the scans to fit on; their draw differs from the sample that measures the map."""
    if n <= pool.LARGE:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, 1]).choice(n, pool.LARGE, replace=False))


def _checked(embeddings: Array) -> Array:
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"embeddings have shape {rows.shape}: expected (n, d) with d >= 1")
    with np.errstate(invalid="ignore"):  # inf - inf gives NaN, which is detected below
        bad = np.flatnonzero(~np.isfinite(rows.sum(axis=1, dtype=np.float64)))
    if bad.size:
        raise ValueError(
            f"embeddings of {bad.size} rows are NaN or infinite, first row {bad[0]}:"
            " leave those scans out or encode them again"
        )
    return rows
