"""Warnings about an unreliable selection: each with its value, its threshold and a remedy.

The thresholds are ours; docs/method.md gives the reasons. Functions return sentences for people,
and nothing if all is well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from sklearn import manifold

from model.clustering import MOST_STRAYS, Clustering

Array = npt.NDArray[Any]

NEIGHBOURS = 10
LEAST_TRUST = 0.8
MOST_COSINE = 0.98
BATCHES = 200
LOWEST_PERCENT = 5
MOST_JUDGED = 1_000  # scans of a batch that are measured
LEAST_OVERLAP = 0.5


def trustworthiness(embeddings: Array, coordinates: Array) -> float:
    """Return the trustworthiness of a map for 10 neighbours, in [0, 1] (Venna & Kaski 2001).

    Below 21 scans it is undefined: NaN. The caller samples large pools.
    """
    if len(embeddings) <= 2 * NEIGHBOURS:
        return math.nan
    return float(manifold.trustworthiness(embeddings, coordinates, n_neighbors=NEIGHBOURS))


def cosine(embeddings: Array) -> float:
    """Return the median cosine between two different embeddings; NaN for fewer than two."""
    rows = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    pairs = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return float(np.median(pairs)) if len(pairs) else math.nan


def domain(trusted: float, alike: float) -> tuple[str, ...]:
    """Return warnings about an encoder or its map on these scans.

    Args:
        trusted: Trustworthiness of the map.
        alike: Median cosine between embeddings.
    """
    warnings = []
    if trusted < LEAST_TRUST:
        warnings.append(
            f"domain: the map keeps neighbours with a trustworthiness of {trusted:.2f}, below "
            f"{LEAST_TRUST}: measure distances in the embedding itself (projection none), or try "
            "another projection"
        )
    if alike > MOST_COSINE:
        warnings.append(
            f"domain: the median cosine between two scans is {alike:.3f}, above {MOST_COSINE}: "
            "the encoder can hardly tell these scans apart; try another encoder"
        )
    return tuple(warnings)


def collapse(clustering: Clustering) -> tuple[str, ...]:
    """Return a warning if a map has no clusters."""
    if not clustering.collapsed:
        return ()
    return (
        f"collapse: {clustering.strays:.0%} of scans' neighbours lie in another cluster, more than "
        f"{MOST_STRAYS:.0%}: the map counts as one cluster, and the cold start medoids chooses by "
        "coverage; another encoder or projection may separate the scans",
    )


def clustered_batch(points: Array, picks: Array, candidates: Array, *, seed: int = 0) -> str:
    """Return a warning if a batch lies closer together than random batches, else "".

    Args:
        points: The map, shape (n, m).
        picks: Rows of the batch, in order; the first 1,000 are measured.
        candidates: Rows that the batch was picked from.
        seed: Of the random batches.

    The remedy depends on the strategy that picked the batch, so the caller adds it.
    """
    picks = picks[:MOST_JUDGED]
    if not 2 <= len(picks) < len(candidates):
        return ""
    rng = np.random.default_rng(seed)
    spread = _spread(points[picks])
    chance = [
        _spread(points[rng.choice(candidates, len(picks), replace=False)]) for _ in range(BATCHES)
    ]
    least = float(np.percentile(chance, LOWEST_PERCENT))
    if spread >= least:
        return ""
    return (
        f"clustered batch: mean nearest-neighbour distance {spread:.3g} < {least:.3g} "
        f"({LOWEST_PERCENT}th percentile of {BATCHES} random batches)"
    )


def instability(overlap: float) -> tuple[str, ...]:
    """Return a warning if the choice depends on the randomness of the map.

    Args:
        overlap: Mean share of scans that two chosen sets have in common, in [0, 1].
    """
    if overlap >= LEAST_OVERLAP:
        return ()
    return (
        f"instability: sets chosen on maps of other seeds and perplexities share {overlap:.2f} of "
        f"their scans, below {LEAST_OVERLAP}: measure distances in the embedding itself "
        "(projection none or pca), which does not depend on chance",
    )


def _spread(points: Array) -> float:
    """Return the mean distance to the nearest other point."""
    return float(cKDTree(points).query(points, k=2)[0][:, 1].mean())
