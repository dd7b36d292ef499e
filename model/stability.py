"""Measure how much a cold start depends on the randomness of its map.

With another seed or perplexity, t-SNE gives the same scans another map. If the chosen set changes
too, it depends more on the map than on the scans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from model import cold_start, diagnostics, projection
from model.projection import FEWEST

Array = npt.NDArray[Any]

PERPLEXITIES = (5.0, 15.0, 30.0, 50.0)


@dataclass(frozen=True)
class Choice:
    """One map, and the scans that a cold start chose on it."""

    perplexity: float
    seed: int
    k: int
    silhouette: float
    rows: frozenset[int]


@dataclass(frozen=True)
class Stability:
    """The sets chosen on several maps, and their overlap.

    Attributes:
        chosen: A set for each perplexity and seed.
        over_seeds: Mean overlap of two sets of the same perplexity.
        over_perplexities: Mean overlap of two sets of the same seed.
        overall: Mean overlap of any two sets.
        chance: Mean overlap of two random sets of that size.
        warnings: A warning if the choice is not stable.
    """

    chosen: tuple[Choice, ...]
    over_seeds: float
    over_perplexities: float
    overall: float
    chance: float
    warnings: tuple[str, ...]


def measure(
    embeddings: Array,
    budget: int,
    *,
    strategy: str = "medoids",
    seeds: Sequence[int] = (0, 1, 2),
    perplexities: Sequence[float] = PERPLEXITIES,
    widths: Sequence[int] = (),
) -> Stability:
    """Return the overlap of the sets chosen on t-SNE maps of several seeds and perplexities.

    The overlap of two sets is the share of scans that they have in common, |A & B| / budget.

    Args:
        embeddings: Shape (n, d), n >= 5.
        budget: Number of scans chosen on each map, 1 to n - 1.
        seeds: Seeds and perplexities together must give at least two maps.
        perplexities: Larger values are lowered to (n - 1) / 3; duplicates are dropped.
        widths: The encoder's, as in `projection.fit`.

    Raises:
        ValueError: If n or the budget is out of range, or there is only one map.
    """
    n = len(embeddings)
    # Drop duplicates after lowering: equal maps would count as agreement.
    perplexities = list(dict.fromkeys(min(value, (n - 1) / 3) for value in perplexities))
    if n < FEWEST:
        raise ValueError(f"{n} scans have no neighbourhoods to lay out: expected at least {FEWEST}")
    if not 1 <= budget < n:
        raise ValueError(f"budget is {budget} of {n} scans: expected 1 to {n - 1}")
    if len(seeds) * len(perplexities) < 2:
        raise ValueError("one map has nothing to be compared with: give more seeds or perplexities")
    chosen = []
    for perplexity in perplexities:
        for seed in seeds:
            fitted = projection.fit(embeddings, seed=seed, perplexity=perplexity, widths=widths)
            start = cold_start.select(
                embeddings, budget, strategy=strategy, coordinates=fitted.coordinates, seed=seed
            )
            rows = frozenset(start.order[:budget].tolist())
            chosen.append(Choice(perplexity, seed, start.k, start.silhouette, rows))
    overall = _overlap(chosen, lambda one, other: True)
    return Stability(
        chosen=tuple(chosen),
        over_seeds=_overlap(chosen, lambda one, other: one.perplexity == other.perplexity),
        over_perplexities=_overlap(chosen, lambda one, other: one.seed == other.seed),
        overall=overall,
        chance=budget / n,
        warnings=diagnostics.instability(overall),
    )


def _overlap(chosen: Sequence[Choice], alike: Callable[[Choice, Choice], bool]) -> float:
    """Return the mean overlap of the pairs for which `alike` is true; NaN without such pairs."""
    shares = [
        len(one.rows & other.rows) / len(one.rows)
        for one, other in combinations(chosen, 2)
        if alike(one, other)
    ]
    return float(np.mean(shares)) if shares else float("nan")
