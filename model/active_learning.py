"""Decide which scans to label next; production and simulation call the same function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model import acquisition, clustering, cold_start, kernels, projection
from model.clustering import Clustering
from model.cold_start.strategy import Words

Array = npt.NDArray[Any]

# The version of the rules; a record names it. A rule that orders the same pool in another way needs
# the next number. 2: on a map without clusters `medoids` chooses by coverage.
# 3: of more than 100,000 scans `coverage` and `tempered` compare a drawn part,
# and the estimates of uncertainty rest on a drawn part of many scored scans.
RULES = 3


@dataclass(frozen=True)
class SelectionOptions:
    """How scans are selected.

    Attributes:
        cold_start_budget: Labelled scans below which the cold start decides.
        cold_start: A key of `cold_start.STRATEGIES`, or the name of a plugin.
        acquisition: A key of `acquisition.STRATEGIES`, or the name of a plugin.
        alpha: Weight of diversity against uncertainty, in [0, 1], or "auto".
        projection: One of `registry.PROJECTIONS`; distances are measured in it.
        batch_size: Scans that the acquisition picks one by one; the rest is ordered in one step.
        random_fraction: Share of such a batch that is drawn at random.
        seed: Of all randomness.
    """

    cold_start_budget: int = 10
    cold_start: str = "medoids"
    acquisition: str = "entropy-diversity"
    alpha: float | str = 0.3
    projection: str = "tsne"
    batch_size: int = 10
    random_fraction: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Decision:
    """The queue, and the values that decided it.

    Attributes:
        phase: The kind of strategy that decided: cold start or acquisition.
        strategy: Name of the strategy; of the built-in default if a plugin failed.
        order: The whole unlabelled pool as rows, best first, shape (u,).
        picked: Number of rows in front that the strategy picked one by one.
        utility, uncertainty, diversity, control: As in `acquisition.Ranking`, shape (u,), following
            `order`; NaN and false in a cold start.
        alpha: As in `acquisition.Ranking`; NaN in a cold start.
        map: Coordinates in which distances were measured, shape (n, 2), or the given coordinates.
        clusters, k, silhouette, medoids: As in `clustering.Clustering`.
        warnings: Sentences that a person should read before trusting the order.
        words: The reasons of a cold start; None for those of its strategy.
        width: Distance within which a picked scan covers others; NaN if the rule has none.
    """

    phase: Literal["cold-start", "acquisition"]
    strategy: str
    order: Array
    picked: int
    utility: Array
    uncertainty: Array
    diversity: Array
    control: Array
    alpha: float
    map: Array
    clusters: Array
    k: int
    silhouette: float
    medoids: Array
    warnings: tuple[str, ...]
    words: Words | None = None
    width: float = math.nan


def decide(  # noqa: PLR0913  # what a round knows
    embeddings: Array,
    labelled: Array,
    options: SelectionOptions,
    *,
    uncertainty: Array | None = None,
    coordinates: Array | None = None,
    clusters: Clustering | None = None,
    groups: Array | None = None,
    sources: Array | None = None,
    places: Array | None = None,
    minutes: Array | None = None,
) -> Decision:
    """Return which unlabelled scans to label, in order, and why.

    The cold start decides while fewer than `cold_start_budget` scans are labelled, or while there
    are no uncertainties. Afterwards the acquisition decides.

    Args:
        embeddings: Shape (n, d); only n is used if `coordinates` are given.
        labelled: Shape (n,) bool.
        uncertainty: The model's, shape (n,); labelled rows are not read.
        coordinates: The map, shape (n, m); fitted if not given.
        clusters: The result of `clustering.cluster` on the map; computed if not given.
        groups: Group of each scan, shape (n,): untouched groups come first.
        sources: Source of each scan, shape (n,): each gets its share (`pool.Shares`).
        places: Place of each scan in its group, shape (n,), NaN if unknown: in touched groups
            scans far from the chosen ones come first (`spread.Spread`).
        minutes: As in `acquisition.rank`; a cold start does not read them.

    Raises:
        ValueError: If an option or an array is not as described.
    """
    notes: tuple[str, ...] = ()
    if coordinates is None:
        fitted = projection.fit(embeddings, method=options.projection, seed=options.seed)
        coordinates, notes = fitted.coordinates, fitted.warnings
    if clusters is None:
        points = np.asarray(coordinates, np.float64)
        clusters = clustering.cluster(points, max(1, options.cold_start_budget), seed=options.seed)
    known = _Known(
        labelled, options, coordinates, clusters, groups, sources, places, minutes, notes
    )
    if uncertainty is None or np.sum(labelled) < options.cold_start_budget:
        return _cold_start(embeddings, known)
    return _acquisition(uncertainty, known)


def reasons(decision: Decision) -> list[str]:
    """Return a short sentence for each row of the order: the reason for its position."""
    if decision.phase == "cold-start":
        return _cold_start_reasons(decision)
    rule = acquisition.rule_of(decision.strategy)
    columns = decision.uncertainty, decision.diversity, decision.utility, decision.control
    scores = zip(*(column.tolist() for column in columns), strict=True)
    alike = _alike(decision, rule.words)
    sentences = []
    for position, (h, d, s, control) in enumerate(scores):
        said = rule.words if position < decision.picked else rule.beyond or rule.words
        known = alike[position] if position < len(alike) else ""
        explained = said.format(uncertainty=h, diversity=d, utility=s, alike=known)
        sentences.append("drawn at random, as a control" if control else explained)
    return sentences


@dataclass(frozen=True, eq=False)
class _Known:
    labelled: Array
    options: SelectionOptions
    coordinates: Array
    clusters: Clustering
    groups: Array | None
    sources: Array | None
    places: Array | None
    minutes: Array | None
    warnings: tuple[str, ...]


def _cold_start(embeddings: Array, known: _Known) -> Decision:
    options = known.options
    start = cold_start.select(
        embeddings,
        max(1, options.cold_start_budget),  # even a budget of 0 needs a first scan
        strategy=options.cold_start,
        coordinates=known.coordinates,
        clustering=known.clusters,
        labelled=known.labelled,
        groups=known.groups,
        sources=known.sources,
        places=known.places,
        seed=options.seed,
    )
    unknown = np.full(len(start.order), math.nan)
    return Decision(
        phase="cold-start",
        strategy=start.strategy,
        order=start.order,
        picked=start.picked,
        utility=unknown,
        uncertainty=unknown,
        diversity=unknown,
        control=np.zeros(len(start.order), bool),
        alpha=math.nan,
        map=start.map,
        clusters=start.clusters,
        k=start.k,
        silhouette=start.silhouette,
        medoids=start.medoids,
        warnings=known.warnings + start.warnings,
        words=start.words,
        width=start.width,
    )


def _acquisition(uncertainty: Array, known: _Known) -> Decision:
    options, clustering_ = known.options, known.clusters
    ranking = acquisition.rank(
        uncertainty,
        known.coordinates,
        known.labelled,
        strategy=options.acquisition,
        alpha=options.alpha,
        batch=options.batch_size,
        groups=known.groups,
        sources=known.sources,
        places=known.places,
        random_fraction=options.random_fraction,
        seed=options.seed,
        minutes=known.minutes,
    )
    return Decision(
        phase="acquisition",
        strategy=ranking.strategy,
        order=ranking.order,
        picked=min(options.batch_size, len(ranking.order)),
        utility=ranking.utility,
        uncertainty=ranking.uncertainty,
        diversity=ranking.diversity,
        control=ranking.control,
        alpha=ranking.alpha,
        map=known.coordinates,
        clusters=clustering_.clusters,
        k=clustering_.k,
        silhouette=clustering_.silhouette,
        medoids=clustering_.medoids,
        warnings=known.warnings + ranking.warnings,
        width=ranking.width,
    )


def _cold_start_reasons(decision: Decision) -> list[str]:
    words = decision.words or cold_start.STRATEGIES[decision.strategy].words
    labelled = _labelled(decision)
    entered = set(decision.clusters[labelled].tolist())
    sizes = np.bincount(decision.clusters, minlength=decision.k).tolist()
    medoids = set(decision.medoids.tolist())
    alike = _alike(decision, words.opening)
    sentences = []
    for position, row in enumerate(decision.order.tolist()):
        number = int(decision.clusters[row])
        if position >= decision.picked:
            said = words.beyond or words.later
        else:
            said = words.later if number in entered else words.first(row in medoids)
        known = alike[position] if position < len(alike) else ""
        sentences.append(said.format(cluster=number, size=sizes[number], alike=known))
        entered.add(number)
    return sentences


def _labelled(decision: Decision) -> Array:
    labelled = np.ones(len(decision.clusters), bool)
    labelled[decision.order] = False
    return labelled


def _alike(decision: Decision, words: str) -> list[str]:
    """Return for each picked scan how many others are like it, if the words ask for it."""
    if "{alike}" not in words:
        return []
    counts = kernels.look_alikes(
        decision.map.astype(np.float64),
        decision.order[: decision.picked],
        decision.width,
        _labelled(decision),
    )
    return [_number_alike(*both) for both in zip(*(one.tolist() for one in counts), strict=True)]


def _number_alike(others: int, labelled: int) -> str:
    if others < 2:
        which = "is" if labelled else "is not"
        return f"1 similar scan, which {which} labelled" if others else "no similar scan"
    known = {0: "none is", 1: "1 is"}.get(labelled, f"{labelled} are")
    return f"{others} similar scans, of which {known} labelled"
