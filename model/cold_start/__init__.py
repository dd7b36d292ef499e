"""Cold start: which scans to label before a model exists.

Source: arXiv 2601.18532, section 3.1, is the strategy `medoids`. The other strategies are rivals
and controls, one module each. docs/method.md lists the choices that the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model import diagnostics, pool, registry
from model import projection as maps
from model.clustering import Clustering
from model.cold_start import (
    coverage,
    kmeans,
    medoids,
    plugged,
    stratified_random,
    tempered,
    typical,
    uniform_random,
)
from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.plugins import PluginError

Array = npt.NDArray[Any]

STRATEGIES: Mapping[str, Strategy] = {
    "medoids": medoids.STRATEGY,
    "kmeans": kmeans.STRATEGY,
    "coverage": coverage.STRATEGY,
    "tempered": tempered.STRATEGY,
    "typical": typical.STRATEGY,
    "random": uniform_random.STRATEGY,
    "stratified-random": stratified_random.STRATEGY,
}


@dataclass(frozen=True, eq=False)
class ColdStart:
    """An order of the whole unlabelled pool, and the clusters behind it.

    Attributes:
        order: Unlabelled rows, best first; without labels, the first `budget` rows are the choice.
        picked: Number of rows in front that the strategy picked one by one.
        map: Coordinates in which distances were measured, shape (n, 2), or the given coordinates.
        clusters: Number of each row's cluster, shape (n,), 0 the largest.
        k: Number of clusters.
        silhouette: Mean silhouette of the clusters; NaN with fewer than two clusters.
        medoids: Row of each cluster's medoid, shape (k,).
        warnings: Sentences that a person should read before trusting the order.
        words: The reasons for the order.
        width: Distance within which a chosen scan covers others; NaN if the rule has none.
        strategy: The name of the strategy that chose; another one than asked if a plugin failed.
    """

    order: Array
    picked: int
    map: Array
    clusters: Array
    k: int
    silhouette: float
    medoids: Array
    warnings: tuple[str, ...]
    words: Words
    width: float
    strategy: str


def select(  # noqa: PLR0913  # the contract's keywords
    embeddings: Array,
    budget: int,
    *,
    strategy: str = "medoids",
    projection: str = "tsne",
    coordinates: Array | None = None,
    clustering: Clustering | None = None,
    labelled: Array | None = None,
    groups: Array | None = None,
    sources: Array | None = None,
    places: Array | None = None,
    seed: int = 0,
) -> ColdStart:
    """Return the pool in the order in which it should be labelled while no model exists.

    Labelling scans in this order does not change the order of the others, up to the budget.

    Args:
        embeddings: Shape (n, d); only n is used if `coordinates` are given.
        budget: Number of scans that the cold start may choose, at least 1; may exceed n.
        strategy: A key of STRATEGIES, or the name of a plugin.
        coordinates: Map to use, shape (n, m); by default `projection` of the embeddings.
        clustering: The result of `clustering.cluster` on that map for this budget; computed if not
            given.
        labelled: Scans already chosen, shape (n,) bool; they count towards their clusters' shares.
        groups: Group of each scan, shape (n,): untouched groups come first.
        sources: Source of each scan, shape (n,): each gets its share (`pool.Shares`).
        places: Place of each scan in its group, shape (n,), NaN if unknown: in touched groups
            scans far from the chosen ones come first (`spread.Spread`).

    Raises:
        ValueError: If the strategy is unknown or an argument has the wrong shape.
    """
    if not registry.is_cold_start(strategy):
        raise ValueError(f"unknown cold start {strategy!r}: {registry.KNOWN_COLD_STARTS}")
    if budget < 1:
        raise ValueError(f"budget is {budget}: a cold start needs at least 1 scan")
    notes: tuple[str, ...] = ()
    if coordinates is None:
        fitted = maps.fit(embeddings, method=projection, seed=seed)
        coordinates, notes = fitted.coordinates, fitted.warnings
    points, n = np.asarray(coordinates), len(embeddings)
    labels = np.zeros(n, bool) if labelled is None else np.asarray(labelled)
    names = np.arange(n) if groups is None else np.asarray(groups)
    origins = None if sources is None else np.asarray(sources)
    within = None if places is None else np.asarray(places, float)
    pool.check(n, points, labels, names, origins, within)
    asked = Pool(
        points.astype(np.float64), budget, labels, names, seed, clustering, origins, within
    )
    name, choice, problems = _choose(strategy, asked)
    found = choice.clustering
    return ColdStart(
        choice.order, choice.picked, points, found.clusters, found.k, found.silhouette,
        found.medoids, notes + problems + _warnings(asked, choice),
        choice.words or STRATEGIES[name].words, choice.width, name,
    )  # fmt: skip


def _choose(name: str, asked: Pool) -> tuple[str, Choice, tuple[str, ...]]:
    """Return the strategy that chose, its choice, and why it is not the one that was asked for."""
    if name in STRATEGIES:
        return name, STRATEGIES[name].choose(asked), ()
    try:
        return name, plugged.choose(name, asked), ()
    except PluginError as error:
        usual = registry.USUAL_COLD_START
        return usual, STRATEGIES[usual].choose(asked), (f"{error}; {usual} chose instead",)


def _warnings(asked: Pool, choice: Choice) -> tuple[str, ...]:
    if len(asked.points) > 1 and not np.ptp(asked.points, axis=0).any():
        return ("all scans look alike to the encoder: they come in the order of their rows",)
    batch = choice.order[: max(0, asked.budget - int(asked.labelled.sum()))]
    clustered = diagnostics.clustered_batch(asked.points, batch, choice.order, seed=asked.seed)
    # Missing clusters matter only to a rule that needs them, and then lets another rule choose.
    collapsed = diagnostics.collapse(choice.clustering) if choice.words else ()
    return (
        *collapsed,
        *((f"{clustered}: choose the cold start coverage",) if clustered else ()),
    )
