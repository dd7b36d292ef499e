"""The interface of acquisitions: their input (`Candidates`, `State`) and base class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from model.kernels import covered_share
from model.pool import nearest

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The scans to choose from; arrays have one entry per candidate, in the order of `rows`.

    Attributes:
        rows: Rows of all scans, shape (c,), ascending.
        size: Number of all scans, labelled scans included.
        uncertainty: As the caller gave it, shape (c,), higher is less certain.
        points: Coordinates of the candidates, shape (c, m).
        chosen: Coordinates of the labelled scans, shape (l, m).
        alpha: Weight of diversity in [0, 1]; None lets it follow the coverage.
        batch: Number of scans that will be picked one by one.
        seed: Of all randomness.
        minutes: Expected minutes of a label of each candidate, above 0, shape (c,); None if the
            order does not depend on them.
    """

    rows: Array
    size: int
    uncertainty: Array
    points: Array
    chosen: Array
    alpha: float | None
    batch: int
    seed: int
    minutes: Array | None = None

    def generator(self, *, anew: bool) -> np.random.Generator:
        """Return a generator; draw `size` numbers from it, one for each scan, not only for `rows`.

        A scan then keeps its number while others are labelled. If numbers were drawn for `rows`
        only, a labelled scan's number would pass to the next row, and rounds would take neighbours.

        Args:
            anew: Whether the numbers change with every label.
        """
        return np.random.default_rng([self.seed, len(self.chosen)] if anew else self.seed)

    @cached_property
    def everyone(self) -> Array:
        """Coordinates of all scans, shape (l + c, m): the labelled scans first."""
        return np.concatenate([self.chosen, self.points])

    @cached_property
    def covered_share(self) -> float:
        """How much of the pool the labelled scans cover, in [0, 1]."""
        return covered_share(self.everyone, self.chosen, seed=self.seed)

    @property
    def ratios(self) -> Array:
        """The uncertainty, for a strategy that takes ratios of uncertainties.

        Raises:
            ValueError: If a value is negative.
        """
        if (self.uncertainty < 0).any():
            raise ValueError(
                f"uncertainty goes down to {self.uncertainty.min():.3g}: expected values of at "
                "least 0, such as entropies, because this strategy takes their ratios"
            )
        return self.uncertainty


class State:
    """The values that change while scans are picked.

    Attributes:
        left: Candidates not picked yet, shape (c,) bool.
        uncertainty: Min-max scaled once over all candidates, shape (c,).
        diversity: Distance to the nearest labelled or picked scan, min-max scaled over the
            candidates left, shape (c,). A picked candidate keeps its last value.
    """

    def __init__(self, candidates: Candidates) -> None:
        self._points = candidates.points
        self._distance = nearest(candidates.points, candidates.chosen)
        self.left = np.ones(len(candidates.points), bool)
        self.uncertainty = scaled(candidates.uncertainty)
        self.diversity = np.zeros(len(candidates.points))
        self._rescale()

    def pick(self, index: int) -> None:
        """Take a candidate, and update the diversity of the others."""
        self.left[index] = False
        new = cdist(self._points, self._points[index : index + 1])[:, 0]
        np.minimum(self._distance, new, out=self._distance)
        self._rescale()

    def _rescale(self) -> None:
        self.diversity[self.left] = scaled(self._distance[self.left])


class Acquisition(ABC):
    """Scores candidates, again after every pick.

    Attributes:
        candidates: The scans to choose from.
        state: The values that change with every pick.
        alpha: Weight of diversity in use; NaN for a strategy without a weight.
        most_picks: Number of scans picked one by one if no batch is given; None for all.
        remedy: Advice for a batch that is closer together than random batches.
        words: The reason for a scan's position; {uncertainty}, {diversity}, {utility} and {alike}
            (as in the cold start) are filled in.
        beyond: The same for a scan behind those picked one by one; "" for `words`.
        width: Distance within which a picked scan covers others; NaN if the rule has none.
    """

    alpha = float("nan")
    most_picks: int | None = None
    remedy = "choose the acquisition entropy-then-diversity or coverage"
    words = "uncertainty {uncertainty:.2f}, distance {diversity:.2f}"
    beyond = ""
    width = float("nan")

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self.state = State(candidates)

    @abstractmethod
    def utility(self) -> Array:
        """Return the current score of every candidate, shape (c,), highest first."""

    def best(self, allowed: Array) -> int:
        """Return the allowed candidate that is worth most; ties go to the lowest row."""
        rows = np.flatnonzero(allowed)
        return int(rows[np.argmax(self.worth(self.utility())[rows])])

    def worth(self, scores: Array) -> Array:
        """Return what the scores are worth a minute, shape (c,); the scores if nobody asked.

        A negative score is multiplied by the minutes, so that fewer minutes are never worse.
        """
        minutes = self.candidates.minutes
        if minutes is None:
            return scores
        found: Array = np.where(scores < 0, scores * minutes, scores / minutes)
        return found

    def pick(self, index: int) -> None:
        """Take a candidate."""
        self.state.pick(index)

    def rest(self) -> Array:
        """Return the scores that order the candidates that were not picked, shape (c,)."""
        return self.utility()


def scaled(values: Array) -> Array:
    """Return the values min-max scaled; zeros if they are all equal, even all infinite."""
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    found: Array = (values - values.min()) / (values.max() - values.min())
    return found
