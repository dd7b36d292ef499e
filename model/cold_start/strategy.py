"""The interface of cold-start strategies: their input (`Pool`) and their result (`Choice`)."""

from __future__ import annotations

import math
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
        points: Coordinates of the scans, shape (n, m), float64.
        budget: Number of scans that may be chosen, labelled scans included, at least 1.
        labelled: Scans that must not be chosen, shape (n,) bool.
        groups: Group of each scan, shape (n,).
        seed: Of all randomness.
        known: The clusters by silhouette; None to compute them.
        sources: Source of each scan, shape (n,); None without sources.
        places: Place of each scan in its group, shape (n,); None without places.
    """

    points: Array
    budget: int
    labelled: Array
    groups: Array
    seed: int
    known: Clustering | None = None
    sources: Array | None = None
    places: Array | None = None

    @cached_property
    def clustering(self) -> Clustering:
        """The clusters by silhouette (arXiv 2601.18532, section 3.1.3)."""
        return self.known or cluster(self.points, self.budget, seed=self.seed)

    @property
    def within_budget(self) -> range:
        """A range over the scans of the budget that are still to be chosen."""
        return range(int(self.labelled.sum()), min(self.budget, len(self.points)))

    @property
    def steps(self) -> range:
        """A range over the scans to choose one by one: max(budget, 1,000) less the labelled."""
        return range(int(self.labelled.sum()), min(max(self.budget, GREEDY), len(self.points)))

    def turns(self) -> Turns:
        """Return the turns of groups and sources at the start."""
        return Turns(self.groups, self.labelled, self.sources, self.budget, self.places)

    def rest(self, picks: Array, turns: Turns) -> Array:
        """Return the remaining rows by distance to the nearest pick, farthest first."""
        chosen = np.concatenate([np.flatnonzero(self.labelled), picks])
        left = np.flatnonzero(turns.left)
        return turns.first(farthest_first(self.points, chosen, left))


@dataclass(frozen=True, eq=False)
class Choice:
    """The result of a strategy.

    Attributes:
        order: The unlabelled rows, best first.
        picked: Number of rows in front that the strategy picked one by one.
        clustering: The clusters that the strategy used, or those of the map.
        words: The reasons, if another rule than the strategy's own chose.
        width: Distance within which a chosen scan covers others; NaN if the rule has none.
    """

    order: Array
    picked: int
    clustering: Clustering
    words: Words | None = None
    width: float = math.nan


@dataclass(frozen=True)
class Words:
    """The reasons for a scan's position; {cluster}, {size} and {alike} are filled in.

    {alike} says how many scans lie within the width of the kernel, and how many are labelled.

    Attributes:
        opening: For the first scan that the strategy picked in a cluster.
        later: For every further scan of the cluster.
        stand_in: For a first scan that is not the cluster's medoid; by default `opening`.
        beyond: For a scan behind those that were picked one by one; by default `later`.
    """

    opening: str
    later: str
    stand_in: str = ""
    beyond: str = ""

    def first(self, medoid: bool) -> str:
        """Return the words for the first scan of a cluster."""
        return self.opening if medoid else self.stand_in or self.opening


@dataclass(frozen=True)
class Strategy:
    """A cold-start strategy, and the words that explain its choice."""

    choose: Callable[[Pool], Choice]
    words: Words


LIKE = "covers {alike}"
FARTHEST = "far from all scans chosen before"
