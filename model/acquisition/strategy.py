"""What every acquisition is handed, and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from model.pool import nearest

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The scans to choose from; arrays are by candidate, in the order of their rows.

    Attributes:
        rows: Rows of the pool, shape (c,), ascending.
        size: Scans in the pool, labelled ones included.
        uncertainty: As the caller gave it, shape (c,), higher is less certain.
        points: Where the candidates lie, shape (c, m).
        chosen: Where the labelled scans lie, shape (l, m).
        alpha: Weight of diversity in [0, 1]; None lets it follow the coverage.
        batch: Scans that will be picked one by one.
        seed: Of everything random.
    """

    rows: Array
    size: int
    uncertainty: Array
    points: Array
    chosen: Array
    alpha: float | None
    batch: int
    seed: int

    def generator(self, *, anew: bool) -> np.random.Generator:
        """Return what draws at random, one number for each scan of the pool and not of `rows`.

        A scan keeps its number while others are labelled; drawn by position, the number of a
        labelled scan would go to the next row, and round after round would take neighbours.

        Args:
            anew: Whether every number of labels draws its own numbers.
        """
        return np.random.default_rng([self.seed, len(self.chosen)] if anew else self.seed)

    @property
    def ratios(self) -> Array:
        """The uncertainty, for a strategy that takes ratios of it.

        Raises:
            ValueError: If one of them is negative.
        """
        if (self.uncertainty < 0).any():
            raise ValueError(
                f"uncertainty goes down to {self.uncertainty.min():.3g}: this strategy takes "
                "ratios of it, so it has to be 0 or more, as an entropy is"
            )
        return self.uncertainty


class State:
    """What changes while scans are picked.

    Attributes:
        left: Candidates not picked yet, shape (c,) bool.
        uncertainty: Min-max scaled once over all candidates, shape (c,).
        diversity: Distance to the nearest labelled or picked scan, min-max scaled over those left,
            shape (c,). A picked one keeps what it had.
    """

    def __init__(self, candidates: Candidates) -> None:
        self._points = candidates.points
        self._distance = nearest(candidates.points, candidates.chosen)
        self.left = np.ones(len(candidates.points), bool)
        self.uncertainty = scaled(candidates.uncertainty)
        self.diversity = np.zeros(len(candidates.points))
        self._rescale()

    def pick(self, index: int) -> None:
        """Take a candidate; the others are then nearer to what is chosen."""
        self.left[index] = False
        new = cdist(self._points, self._points[index : index + 1])[:, 0]
        np.minimum(self._distance, new, out=self._distance)
        self._rescale()

    def _rescale(self) -> None:
        self.diversity[self.left] = scaled(self._distance[self.left])


class Acquisition(ABC):
    """Scores candidates, again after every pick.

    Attributes:
        candidates: What there is to choose from.
        state: What changes with every pick.
        alpha: Weight of diversity that is in use; NaN where there is no such weight.
        most_picks: How many scans are picked one by one when no batch is asked for; None is all.
        remedy: What to do about a batch that lies closer together than chance.
        words: Why a scan stands where it does; {uncertainty}, {diversity} and {utility} are filled
            in.
    """

    alpha = float("nan")
    most_picks: int | None = None
    remedy = "choose the acquisition entropy-then-diversity or coverage"
    words = "uncertainty {uncertainty:.2f}, distance {diversity:.2f}"

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self.state = State(candidates)

    @abstractmethod
    def utility(self) -> Array:
        """Return the score of every candidate now, shape (c,), higher is sooner."""

    def best(self, allowed: Array) -> int:
        """Return the allowed candidate of the highest score, the lowest row if tied."""
        rows = np.flatnonzero(allowed)
        return int(rows[np.argmax(self.utility()[rows])])

    def pick(self, index: int) -> None:
        """Take a candidate."""
        self.state.pick(index)

    def rest(self) -> Array:
        """Return the scores by which those that were not picked follow, shape (c,)."""
        return self.utility()


def scaled(values: Array) -> Array:
    """Return the values min-max scaled; zeros where they are constant, infinity included."""
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    found: Array = (values - values.min()) / (values.max() - values.min())
    return found
