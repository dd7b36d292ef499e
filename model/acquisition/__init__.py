"""Acquisition: which scans to label next, once a model gives uncertainties.

Source: arXiv 2601.18532, section 3.2, is the strategy `entropy-diversity`. The other strategies are
rivals and controls, one module each. docs/method.md lists the choices that the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from model import diagnostics, pool, registry
from model.acquisition import plugged
from model.acquisition.coverage import UncertaintyCoverage
from model.acquisition.entropy import Entropy
from model.acquisition.entropy_diversity import EntropyDiversity
from model.acquisition.entropy_then_diversity import EntropyThenDiversity
from model.acquisition.power_noise import PowerNoise
from model.acquisition.strategy import Acquisition, Candidates
from model.acquisition.tempered import Tempered
from model.acquisition.uniform_random import Random
from model.plugins import PluginError

Array = npt.NDArray[Any]

STRATEGIES: Mapping[str, type[Acquisition]] = {
    "entropy-diversity": EntropyDiversity,
    "entropy": Entropy,
    "entropy-then-diversity": EntropyThenDiversity,
    "power-noise": PowerNoise,
    "coverage": UncertaintyCoverage,
    "tempered": Tempered,
    "random": Random,
}


@dataclass(frozen=True, eq=False)
class Ranking:
    """An order of the unlabelled pool; arrays have shape (candidates,) and follow `order`.

    Attributes:
        order: Unlabelled rows, best first.
        utility: The strategy's score at the moment of the pick; for the scans behind the batch, the
            score that orders them.
        uncertainty: The caller's, min-max scaled over the candidates.
        diversity: Distance to the nearest labelled or picked scan, min-max scaled at that moment.
        control: True for a scan that was drawn at random because of `random_fraction`.
        alpha: Weight of diversity that was used; NaN for a strategy without a weight.
        warnings: Sentences that a person should read before trusting the batch.
        width: Distance within which a picked scan covers others; NaN if the rule has none.
        strategy: The name of the strategy that ranked; another one than asked if a plugin failed.
    """

    order: Array
    utility: Array
    uncertainty: Array
    diversity: Array
    control: Array
    alpha: float
    warnings: tuple[str, ...]
    width: float
    strategy: str


def rank(  # noqa: PLR0913  # the contract's keywords
    uncertainty: Array,
    coordinates: Array,
    labelled: Array,
    *,
    strategy: str = "entropy-diversity",
    alpha: float | str = 0.3,
    batch: int | None = None,
    groups: Array | None = None,
    sources: Array | None = None,
    places: Array | None = None,
    random_fraction: float = 0.0,
    seed: int = 0,
    minutes: Array | None = None,
) -> Ranking:
    """Return the unlabelled pool in the order in which it should be labelled.

    Args:
        uncertainty: Shape (n,), higher is less certain; labelled rows are not read.
        coordinates: Shape (n, m), usually the map.
        labelled: Shape (n,) bool.
        strategy: A key of STRATEGIES, or the name of a plugin.
        alpha: Weight of diversity, in [0, 1], or "auto": it falls as the labels cover the pool.
        batch: Scans picked one by one, at least 1; None picks all, or 1,000 if each pick computes
            a kernel (`coverage`, `tempered`). The rest is ordered in one step.
        groups: Group of each scan, shape (n,): untouched groups come first.
        sources: Source of each scan, shape (n,): each gets its share (`pool.Shares`).
        places: Place of each scan in its group, shape (n,), NaN if unknown: in touched groups
            scans far from the chosen ones come first (`spread.Spread`).
        random_fraction: Share of the picks drawn at random instead, in [0, 1], evenly spread over
            this batch and the scans labelled before.
        seed: Of all randomness.
        minutes: Expected minutes of a label of each scan, above 0, shape (n,); labelled rows are
            not read. The order is then that of the utility divided by them.

    Raises:
        ValueError: If an argument is out of range, or a candidate has NaN or infinity.
    """
    if not registry.is_acquisition(strategy):
        raise ValueError(f"unknown acquisition {strategy!r}: {registry.KNOWN_ACQUISITIONS}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}: expected at least 1, or None for the whole pool")
    labels, values, points = map(np.asarray, (labelled, uncertainty, coordinates))
    names = np.arange(len(labels)) if groups is None else np.asarray(groups)
    origins = None if sources is None else np.asarray(sources)
    within = None if places is None else np.asarray(places, float)
    pool.check(len(labels), points, labels, names, origins, within)
    _check_uncertainty(values, labels)
    _check_minutes(minutes, labels)
    weight = None if alpha == "auto" else _share("alpha", alpha, ' or "auto"')
    control = _share("random_fraction", random_fraction)
    asked = _Question(
        values, points, labels, names, origins, within, minutes, weight, batch, control, seed
    )
    return _ranked(strategy, asked)


@dataclass(frozen=True, eq=False)
class _Question:
    """The arguments of `rank`, checked."""

    uncertainty: Array
    points: Array
    labelled: Array
    groups: Array
    sources: Array | None
    places: Array | None
    minutes: Array | None
    alpha: float | None
    batch: int | None
    random_fraction: float
    seed: int

    def ranking(self, name: str, rule: type[Acquisition]) -> Ranking:
        """Return the ranking of a rule."""
        rows = np.flatnonzero(~self.labelled)
        candidates = Candidates(
            rows=rows,
            size=len(self.labelled),
            uncertainty=self.uncertainty[rows].astype(np.float64),
            points=self.points[rows].astype(np.float64),
            chosen=self.points[self.labelled].astype(np.float64),
            alpha=self.alpha,
            batch=min(len(rows), self.batch or rule.most_picks or len(rows)),
            seed=self.seed,
            minutes=None if self.minutes is None else self.minutes[rows],
        )
        control = _control(candidates, self.random_fraction)
        most = len(candidates.chosen) + candidates.batch
        turns = pool.Turns(self.groups, self.labelled, self.sources, most, self.places)
        return _Picking(name, rule(candidates), turns).run(control)


def _ranked(name: str, asked: _Question) -> Ranking:
    """Return the ranking; where a plugin fails, that of the usual rule, with a warning."""
    if name in STRATEGIES:
        return asked.ranking(name, STRATEGIES[name])
    try:
        return plugged.checked(name, lambda rule: asked.ranking(name, rule))
    except PluginError as error:
        usual = registry.USUAL_ACQUISITION
        ranking = asked.ranking(usual, STRATEGIES[usual])
        said = f"{error}; {usual} chose instead"
        return replace(ranking, warnings=(said, *ranking.warnings))


def rule_of(strategy: str) -> type[Acquisition]:
    """Return the rule that made a ranking, by its name."""
    return STRATEGIES[strategy] if strategy in STRATEGIES else plugged.rule(strategy)


class _Picking:
    """Picks one batch scan by scan, and orders the rest behind it."""

    def __init__(self, name: str, acquisition: Acquisition, turns: pool.Turns) -> None:
        self._name = name
        self._acquisition = acquisition
        self._candidates = acquisition.candidates
        self._rows = self._candidates.rows
        self._turns = turns
        self._utility = np.zeros(len(self._rows))

    def run(self, control: Array) -> Ranking:
        """Return the ranking; `control`, shape (batch,) bool, says which picks are random."""
        rng = self._candidates.generator(anew=True)
        picks = np.array([self._pick(rng if drawn else None) for drawn in control], int)
        state = self._acquisition.state
        self._utility[state.left] = self._acquisition.rest()[state.left]
        order = np.concatenate([picks, self._rest()])
        drawn = np.zeros(len(order), bool)
        drawn[: len(control)] = control
        return Ranking(
            order=self._rows[order],
            utility=self._utility[order],
            uncertainty=state.uncertainty[order],
            diversity=state.diversity[order],
            control=drawn,
            alpha=self._acquisition.alpha,
            warnings=self._warnings(picks),
            width=self._acquisition.width,
            strategy=self._name,
        )

    def _pick(self, rng: np.random.Generator | None) -> int:
        allowed = self._turns.allowed[self._rows]
        if rng is None:
            index = self._acquisition.best(allowed)
            if not allowed[index]:
                raise ValueError(f"{self._name} picked a scan that may not be picked now")
        else:
            index = int(rng.choice(np.flatnonzero(allowed)))
        self._utility[index] = self._acquisition.utility()[index]
        self._turns.take(int(self._rows[index]))
        self._acquisition.pick(index)
        return index

    def _rest(self) -> Array:
        left = np.flatnonzero(self._acquisition.state.left)
        worth = self._acquisition.worth(self._utility)
        left = left[np.argsort(-worth[left], kind="stable")]
        return np.searchsorted(self._rows, self._turns.first(self._rows[left]))

    def _warnings(self, picks: Array) -> tuple[str, ...]:
        candidates, seed = self._candidates, self._candidates.seed
        everyone = np.arange(len(candidates.points))
        said = diagnostics.clustered_batch(candidates.points, picks, everyone, seed=seed)
        return (f"{said}: {self._acquisition.remedy}",) if said else ()


def _control(candidates: Candidates, fraction: float) -> Array:
    """Return which picks are random, shape (batch,): evenly spread, counting the labelled scans.

    If the count began anew with each ranking, rounds after every label or two would never reach
    their first random pick.
    """
    steps = len(candidates.chosen) + np.arange(candidates.batch + 1)
    return np.diff(np.floor(steps * fraction + 1e-9)) > 0


def _share(name: str, value: object, otherwise: str = "") -> float:
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value!r}: expected a number from 0 to 1{otherwise}")
    return float(value)


def _check_uncertainty(uncertainty: Array, labelled: Array) -> None:
    if uncertainty.shape != labelled.shape:
        raise ValueError(
            f"uncertainty has shape {uncertainty.shape}: expected a value per scan, "
            f"{labelled.shape}"
        )
    bad = np.flatnonzero(~labelled & ~np.isfinite(uncertainty))
    if bad.size:
        raise ValueError(
            f"uncertainty of {bad.size} candidates is NaN or infinite, first row {bad[0]}:"
            " score those scans again or leave them out of the pool"
        )


def _check_minutes(minutes: Array | None, labelled: Array) -> None:
    if minutes is None:
        return
    if minutes.shape != labelled.shape:
        raise ValueError(
            f"minutes have shape {minutes.shape}: expected a value per scan, {labelled.shape}"
        )
    asked = minutes[~labelled]
    if not (np.isfinite(asked) & (asked > 0)).all():
        raise ValueError(
            "minutes of some candidates are NaN, infinite or not above 0: estimate them, or leave "
            "the minutes out"
        )
