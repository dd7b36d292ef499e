"""What every cold-start strategy is handed, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model.clustering import Clustering, cluster
from model.pool import GREEDY, Turns, farthest_first

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pool:
    """The scans to choose from.

    Attributes:
        points: Where they lie, shape (n, m), float64.
        budget: Scans that may be chosen, labelled ones included, at least 1.
        labelled: Scans that are not to be chosen, shape (n,) bool.
        groups: Group of each scan, shape (n,).
        seed: Of everything random.
        known: The clusters by silhouette, when they are known.
    """

    points: Array
    budget: int
    labelled: Array
    groups: Array
    seed: int
    known: Clustering | None = None

    @cached_property
    def clustering(self) -> Clustering:
        """The clusters by silhouette (arXiv 2601.18532, section 3.1.3)."""
        return self.known or cluster(self.points, self.budget, seed=self.seed)

    @property
    def within_budget(self) -> range:
        """One for each scan of the budget that is still to be chosen."""
        return range(int(self.labelled.sum()), min(self.budget, len(self.points)))

    @property
    def steps(self) -> range:
        """One for each scan that is chosen greedily: max(budget, 1,000) less the labelled."""
        return range(int(self.labelled.sum()), min(max(self.budget, GREEDY), len(self.points)))

    def turns(self) -> Turns:
        """Return whose turn it is at the start."""
        return Turns(self.groups, self.labelled)

    def rest(self, picks: Array, turns: Turns) -> Array:
        """Return the rows not chosen yet by distance to the nearest pick, farthest first."""
        chosen = np.concatenate([np.flatnonzero(self.labelled), picks])
        left = np.flatnonzero(turns.left)
        return turns.first(farthest_first(self.points, chosen, left))


@dataclass(frozen=True, eq=False)
class Choice:
    """What a strategy gives back.

    Attributes:
        order: The unlabelled rows.
        picked: How many of them its rule chose; the rest follows.
        clustering: The clusters that it rests on, or those of the map.
    """

    order: Array
    picked: int
    clustering: Clustering


@dataclass(frozen=True)
class Words:
    """Why a scan stands where it does; {cluster} and {size} are filled in.

    Attributes:
        opening: Of the first scan that the rule chose in a cluster.
        later: Of any further one.
        stand_in: Of the first scan of a cluster when it is not the medoid; by default `opening`.
    """

    opening: str
    later: str
    stand_in: str = ""

    def first(self, medoid: bool) -> str:
        """Return the words for the first scan of a cluster."""
        return self.opening if medoid else self.stand_in or self.opening


@dataclass(frozen=True)
class Strategy:
    """A rule for a cold start, and the words that explain it."""

    choose: Callable[[Pool], Choice]
    words: Words


FARTHEST = "far from all scans chosen before"
