"""One decision, used in production and in simulation alike: which scans should be labelled next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model import acquisition, cold_start, projection

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SelectionOptions:
    """How scans are selected.

    Attributes:
        cold_start_budget: Labelled scans below which the cold start decides.
        alpha: Weight of diversity against uncertainty, in [0, 1].
        batch_size: Scans picked one by one by the acquisition; the rest follows in one go.
        random_fraction: Share of such a batch that is drawn at random.
        seed: Of everything random.
    """

    cold_start_budget: int = 10
    cold_start: str = "medoids"
    acquisition: str = "entropy-diversity"
    alpha: float = 0.3
    projection: str = "tsne"
    batch_size: int = 10
    random_fraction: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Decision:
    """The queue, and everything it rests on.

    Attributes:
        phase: Which rule decided.
        order: The whole unlabelled pool as rows, sooner is better, shape (u,).
        utility, uncertainty, diversity: As in `acquisition.Ranking`, shape (u,), following
            `order`; NaN in a cold start.
        map: Where distances were measured, shape (n, 2), or the coordinates that were given.
        clusters, k, silhouette, medoids: As in `cold_start.Clustering`.
        warnings: What a person should know before trusting the order.
    """

    phase: Literal["cold-start", "acquisition"]
    order: Array
    utility: Array
    uncertainty: Array
    diversity: Array
    map: Array
    clusters: Array
    k: int
    silhouette: float
    medoids: Array
    warnings: tuple[str, ...]


def decide(  # noqa: PLR0913  # what a round knows
    embeddings: Array,
    labelled: Array,
    options: SelectionOptions,
    *,
    uncertainty: Array | None = None,
    coordinates: Array | None = None,
    clusters: Array | None = None,
    groups: Array | None = None,
) -> Decision:
    """Return which unlabelled scans to label, in order, and why.

    The cold start decides while fewer than `cold_start_budget` scans are labelled or nothing is
    known about uncertainty; the acquisition decides afterwards.

    Args:
        embeddings: Shape (n, d).
        labelled: Shape (n,) bool.
        uncertainty: The model's, shape (n,); labelled rows are not read.
        coordinates: The map, shape (n, m), when it is known; otherwise it is fitted.
        clusters: Number of each row's cluster, shape (n,), kept by the acquisition when known.
        groups: Group of each scan, shape (n,): untouched groups come first.

    Raises:
        ValueError: If an option or an array is not as described.
    """
    if coordinates is None:
        fitted = projection.fit(embeddings, method=options.projection, seed=options.seed)
        coordinates = fitted.coordinates
    if uncertainty is None or np.sum(labelled) < options.cold_start_budget:
        return _cold_start(embeddings, labelled, options, coordinates, groups)
    return _acquisition(labelled, options, uncertainty, coordinates, clusters, groups)


def reasons(decision: Decision) -> list[str]:
    """Return one short sentence for each row of the order, saying why it stands there."""
    if decision.phase == "cold-start":
        return _cold_start_reasons(decision)
    scores = zip(decision.uncertainty, decision.diversity, decision.utility, strict=True)
    return [f"entropy {h:.2f}, distance {d:.2f}: score {s:.2f}" for h, d, s in scores]


def _cold_start(
    embeddings: Array,
    labelled: Array,
    options: SelectionOptions,
    coordinates: Array,
    groups: Array | None,
) -> Decision:
    start = cold_start.select(
        embeddings,
        max(1, options.cold_start_budget),  # with no model yet, a budget of 0 has to begin too
        strategy=options.cold_start,
        coordinates=coordinates,
        labelled=labelled,
        groups=groups,
        seed=options.seed,
    )
    unknown = np.full(len(start.order), np.nan)
    return Decision(
        "cold-start", start.order, unknown, unknown, unknown, start.map, start.clusters,
        start.k, start.silhouette, start.medoids, start.warnings,
    )  # fmt: skip


def _acquisition(
    labelled: Array,
    options: SelectionOptions,
    uncertainty: Array,
    coordinates: Array,
    clusters: Array | None,
    groups: Array | None,
) -> Decision:
    ranking = acquisition.rank(
        uncertainty,
        coordinates,
        labelled,
        strategy=options.acquisition,
        alpha=options.alpha,
        batch=options.batch_size,
        groups=groups,
        random_fraction=options.random_fraction,
        seed=options.seed,
    )
    points = np.asarray(coordinates, np.float64)
    found = (
        cold_start.cluster(points, options.cold_start_budget, seed=options.seed)
        if clusters is None
        else cold_start.describe(points, np.asarray(clusters), seed=options.seed)
    )
    return Decision(
        "acquisition", ranking.order, ranking.utility, ranking.uncertainty, ranking.diversity,
        coordinates, found.clusters, found.k, found.silhouette, found.medoids, (),
    )  # fmt: skip


def _cold_start_reasons(decision: Decision) -> list[str]:
    labelled = np.ones(len(decision.clusters), bool)
    labelled[decision.order] = False
    entered = set(decision.clusters[labelled].tolist())
    sentences = []
    for row in decision.order:
        c = int(decision.clusters[row])
        if c in entered:
            sentences.append(f"farthest from the scans chosen in cluster {c}")
        elif row in decision.medoids:
            size = int(np.sum(decision.clusters == c))
            sentences.append(f"medoid of cluster {c} ({size} scans)")
        else:
            sentences.append(f"nearest to the medoid of cluster {c} in an untouched group")
        entered.add(c)
    return sentences
