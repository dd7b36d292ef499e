"""Which scans to label next, once a model says how uncertain it is.

Source: arXiv 2601.18532, section 3.2: a weighted sum of predictive entropy and of the distance on
the map to what is chosen. docs/method.md says what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from model.cold_start import check_pool

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Ranking:
    """An order of the unlabelled pool; all arrays have shape (candidates,) and follow `order`.

    Attributes:
        order: Unlabelled rows, sooner is better.
        utility: alpha * diversity + (1 - alpha) * uncertainty at the moment of the pick.
        uncertainty: The caller's, min-max scaled over the candidates.
        diversity: Distance to the nearest labelled or picked scan, min-max scaled at that moment.
    """

    order: Array
    utility: Array
    uncertainty: Array
    diversity: Array


@dataclass(frozen=True, eq=False)
class _Candidates:
    rows: Array  # (c,) rows of the pool, ascending
    uncertainty: Array  # (c,)
    points: Array  # (c, m)
    chosen: Array  # (l, m), the labelled scans' points
    untouched: Array  # (c,) bool: no scan of the group is labelled
    groups: Array  # (c,)
    alpha: float
    batch: int
    random_fraction: float
    seed: int


def rank(  # noqa: PLR0913  # the contract's keywords
    uncertainty: Array,
    coordinates: Array,
    labelled: Array,
    *,
    strategy: str = "entropy-diversity",
    alpha: float = 0.3,
    batch: int | None = None,
    groups: Array | None = None,
    random_fraction: float = 0.0,
    seed: int = 0,
) -> Ranking:
    """Return the unlabelled pool in the order in which it should be labelled.

    Args:
        uncertainty: Shape (n,), higher is less certain; not read where a scan is labelled.
        coordinates: Shape (n, m), usually the map.
        labelled: Shape (n,) bool.
        alpha: Weight of diversity, in [0, 1].
        batch: Scans picked one by one, at least 1; None picks all. The rest follows in one go.
        groups: Group of each scan, shape (n,): untouched groups come first.
        random_fraction: Share of the batch drawn at random instead, evenly spread, in [0, 1].

    Raises:
        ValueError: If an argument is out of range, or a candidate has NaN or infinity.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown acquisition {strategy!r}: use one of {', '.join(STRATEGIES)}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}: expected at least 1, or None for the whole pool")
    labels, values, points = map(np.asarray, (labelled, uncertainty, coordinates))
    names = np.arange(len(labels)) if groups is None else np.asarray(groups)
    check_pool(len(labels), points, labels, names)
    _check_uncertainty(values, labels)
    rows = np.flatnonzero(~labels)
    candidates = _Candidates(
        rows=rows,
        uncertainty=values[rows].astype(np.float64),
        points=points[rows].astype(np.float64),
        chosen=points[labels].astype(np.float64),
        untouched=~np.isin(names[rows], names[labels]),
        groups=names[rows],
        alpha=_share("alpha", alpha),
        batch=len(rows) if batch is None else min(batch, len(rows)),
        random_fraction=_share("random_fraction", random_fraction),
        seed=seed,
    )
    return STRATEGIES[strategy](candidates)


def _entropy_diversity(candidates: _Candidates) -> Ranking:
    """S = alpha * D + (1 - alpha) * H, greedily; D follows every pick."""
    greedy = _Greedy(candidates)
    drawn = _drawn(candidates)
    rng = np.random.default_rng(candidates.seed)
    for at_random in drawn:
        allowed = greedy.allowed()
        best = np.argmax(np.where(allowed, greedy.utility, -np.inf))
        greedy.pick(int(rng.choice(np.flatnonzero(allowed)) if at_random else best))
    return greedy.ranking()


STRATEGIES: Mapping[str, Callable[[_Candidates], Ranking]] = {
    "entropy-diversity": _entropy_diversity,
}


class _Greedy:
    """The scores of the candidates left, kept up to date while scans are picked."""

    def __init__(self, candidates: _Candidates) -> None:
        self._candidates = candidates
        self._uncertainty = _scaled(candidates.uncertainty)
        self._distance = np.full(len(candidates.rows), np.inf)
        for point in candidates.chosen:
            self._approach(point)
        self._left = np.ones(len(candidates.rows), bool)
        self._untouched = candidates.untouched.copy()
        self._picked: list[int] = []
        self.diversity = np.zeros(len(candidates.rows))
        self.utility = np.zeros(len(candidates.rows))
        self._score()

    def allowed(self) -> Array:
        """Return which candidates may come next: untouched groups, then all that are left."""
        fresh = self._left & self._untouched
        return fresh if fresh.any() else self._left

    def pick(self, index: int) -> None:
        """Take a candidate and score the others anew; its own scores stay as they were."""
        self._picked.append(index)
        self._left[index] = False
        self._untouched &= self._candidates.groups != self._candidates.groups[index]
        self._approach(self._candidates.points[index])
        self._score()

    def ranking(self) -> Ranking:
        """Return the picks, then what is left by its present scores."""
        rest = np.flatnonzero(self._left)
        rest = rest[np.argsort(-self.utility[rest], kind="stable")]
        rest = self._openers_first(rest)
        order = np.concatenate([np.array(self._picked, int), rest])
        return Ranking(
            self._candidates.rows[order],
            self.utility[order],
            self._uncertainty[order],
            self.diversity[order],
        )

    def _openers_first(self, rest: Array) -> Array:
        opens = np.zeros(len(rest), bool)
        opens[np.unique(self._candidates.groups[rest], return_index=True)[1]] = True
        opens &= self._untouched[rest]
        return np.concatenate([rest[opens], rest[~opens]])

    def _approach(self, point: Array) -> None:
        new = cdist(self._candidates.points, point[None])[:, 0]
        np.minimum(self._distance, new, out=self._distance)

    def _score(self) -> None:
        left, alpha = self._left, self._candidates.alpha
        self.diversity[left] = _scaled(self._distance[left])
        self.utility[left] = alpha * self.diversity[left] + (1 - alpha) * self._uncertainty[left]


def _drawn(candidates: _Candidates) -> Array:
    """Return which picks are random, shape (batch,): evenly spread over the batch."""
    steps = np.arange(candidates.batch + 1)
    return np.diff(np.round(steps * candidates.random_fraction)) > 0


def _scaled(values: Array) -> Array:
    """Return the values min-max scaled; zeros where they are constant, infinity included."""
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    scaled: Array = (values - values.min()) / (values.max() - values.min())
    return scaled


def _share(name: str, value: object) -> float:
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value!r}: expected a number from 0 to 1")
    return float(value)


def _check_uncertainty(uncertainty: Array, labelled: Array) -> None:
    if uncertainty.shape != labelled.shape:
        raise ValueError(
            f"uncertainty has shape {uncertainty.shape}: expected one a scan, {labelled.shape}"
        )
    bad = np.flatnonzero(~labelled & ~np.isfinite(uncertainty))
    if bad.size:
        raise ValueError(
            f"uncertainty of {bad.size} candidates is NaN or infinite, first row {bad[0]}:"
            " score those scans again or leave them out of the pool"
        )
