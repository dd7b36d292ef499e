"""Refinement: more training on the same labels, with the recipe that cross-validation prefers.

A round trains for half a minute, because a person waits for the next queue. While nobody waits,
refinement first compares recipes (scale, encoder, start) by cross-validation on the labels that
are there, and then trains several networks for longer: with the better recipe, and in turn with
those that are not clearly worse. The probabilities of these networks are averaged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from model import recipes, training
from model.ensemble import Ensemble
from model.evaluation import dice_of_scans
from model.fitted import Fitted, TrainConfig
from model.inference import predict
from model.preprocessing import Image
from model.registry import IMAGENET, PARTS, QUICK, WHOLE
from model.side_by_side import Cores, cores
from model.training import Masks, Progress
from model.uncertainty import Probabilities
from model.validation import group_means

FOLDS = 3
LEAST_GROUPS = 4  # with fewer a fold trains on too little to say anything
MOST_MEMBERS = 3
COMPARISON = 0.6  # largest share of the budget for comparing recipes
# Each of several members takes at least twice the steps of `quick`, and a member at most five times
# as many, with small regions too.
LEAST_STEPS, MOST_STEPS = 2, 5
SMALL_SIDE = 96  # pixels; larger images gain from several cores (docs/benchmarks/speed.md)
# Rounds change their recipe only for so much Dice: they have less time for a slower network than
# the comparison gives it. On hearts EfficientNet-Lite0 lost in the time of a round and won in that
# of a refinement (docs/benchmarks/training.md).
LEAD = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelledScans:
    """The labelled scans, page by page.

    Attributes:
        images: The pages; a scan that is no slab has one.
        masks: Of each page, shape (c, h, w).
        groups: Of each page; a group is never divided.
        scans: The number of each page's scan; None if every scan has one page. Pages of a scan
            follow one another.
    """

    images: Sequence[Image]
    masks: Sequence[Masks]
    groups: Sequence[int]
    scans: Sequence[int] | None = None

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each page's scan, shape (n,)."""
        return np.array(range(len(self.images)) if self.scans is None else self.scans)

    def part(self, chosen: NDArray[np.bool_]) -> LabelledScans:
        """Return the chosen scans."""
        at = np.flatnonzero(chosen)
        return LabelledScans(
            [self.images[row] for row in at],
            [self.masks[row] for row in at],
            [self.groups[row] for row in at],
            None if self.scans is None else [self.scans[row] for row in at],
        )

    def fit(
        self,
        config: TrainConfig,
        *,
        start: Fitted | None = None,
        on_batch: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Fitted:
        """Return a network that was trained on these scans; see `training.fit`."""
        return training.fit(
            self.images,
            self.masks,
            config,
            groups=self.groups,
            scans=self.scans,
            start=start,
            on_batch=on_batch,
            stop=stop,
        )


@dataclass(frozen=True)
class Recipe:
    """A way of training: its settings, for the same number of steps in each."""

    name: str
    config: TrainConfig
    cost: float  # the time of a step, in steps of QUICK


@dataclass(frozen=True)
class Refinement:
    """The refined model, and how its recipes were chosen.

    Attributes:
        model: The trained networks.
        recipes: The name of the recipe of each network.
        compared: The mean cross-validated Dice of each recipe; empty if none were compared.
        best: The recipe for the rounds that follow: the best one if QUICK is clearly worse, by
            LEAD at least, else QUICK; "" if none were compared.
    """

    model: Ensemble
    recipes: tuple[str, ...]
    compared: Mapping[str, float]
    best: str


class Stopped(Exception):
    """Refinement was asked to stop."""


def candidates(quick: TrainConfig, masks: Sequence[Masks]) -> list[Recipe]:
    """Return the recipes to compare, that of a round first.

    The others see scans at the other scale, or start from ImageNet's weights. A scale or a network
    that a person chose stays, and so does an encoder with weights of its own.
    """
    other = WHOLE if recipes.adapted(quick, masks).crop else PARTS
    configs = {name: recipes.named(name, quick) for name in (QUICK, other, IMAGENET)}
    return [
        Recipe(
            name,
            replace(recipes.adapted(config, masks), steps=quick.steps),
            recipes.cost(name, quick),
        )
        for name, config in configs.items()
        if name == QUICK or config != quick
    ]


def refine(
    labelled: LabelledScans,
    quick: TrainConfig,
    budget: float,
    *,
    tell: Callable[[float], None] = lambda share: None,
    stop: Callable[[], bool] = lambda: False,
    late: Callable[[], bool] = lambda: False,
) -> Refinement:
    """Return a model that was trained for longer than a round allows.

    It is repeatable for a seed and a number of cores, as long as `late` does not cut it short.

    At most COMPARISON of the budget is spent on comparing recipes. If that is not enough, or if
    there are fewer than LEAST_GROUPS groups, all of it goes into training with the recipe of a
    round.

    Args:
        labelled: The labelled scans.
        quick: The settings of a round's training before `recipes.adapted`, with init "scratch".
        budget: How many steps of a round the refinement may cost. If trainings share the cores,
            each of them may cost so many.
        tell: Called after every step with the share of the budget that is spent. Trainings that
            share the cores call it and `stop` from threads of their own, one at a time.
        stop: Called before every step; if it returns True, refinement ends without a result.
        late: Called before every step; if it returns True, refinement ends with the networks that
            it has, those in training cut short. A comparison that is cut short does not count.
            The first network takes at least the steps of `quick`; another one that took fewer does
            not count.

    Raises:
        Stopped: If `stop` returned True.
        ValueError, Untrainable: As in `training.fit`.
    """
    known = candidates(quick, labelled.masks)
    with cores(share=_is_small(quick)) as together:
        work = _Work(budget, together, tell, stop, late)
        costs = [each.config.steps * each.cost for each in _by_cost(known) for _ in range(FOLDS)]
        comparison = together.seconds(costs)
        scores: dict[str, Floats] = {}
        if comparison <= COMPARISON * budget and len(set(labelled.groups)) >= LEAST_GROUPS:
            scores = _compared(labelled, split(labelled.groups, quick.seed), known, work)
            budget -= comparison
        if work.late():
            budget = 0.0  # then one network is trained, and its learning rate falls to the end
        good, by_name = choose(scores), {each.name: each for each in known}
        chosen = [by_name[name] for name in good]
        members = _members(chosen, quick.steps, max(budget, 0.0), together)
        trained = _trained(labelled, members, quick.steps, work)
    names, networks = zip(*trained, strict=True)
    compared = {name: float(values.mean()) for name, values in scores.items()}
    return Refinement(Ensemble(networks), names, compared, _for_rounds(good, compared))


def _is_small(quick: TrainConfig) -> bool:
    """Return whether a network gains nothing from several cores, so trainings share them."""
    small = recipes.is_small(quick.network) and (quick.crop or quick.image_size) <= SMALL_SIDE
    return quick.device == "cpu" and small


def split(groups: Sequence[int], seed: int, number: int = FOLDS) -> NDArray[np.int64]:
    """Return the fold of each scan, shape (n,): whole groups, spread evenly and at random."""
    names, places = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    folds: NDArray[np.int64] = (order % number)[places]
    return folds


def choose(scores: Mapping[str, Floats]) -> list[str]:
    """Return the names of the recipes to train with, the best first.

    These are the best recipe and all that are not clearly worse. Few labels make the comparison
    noisy; the mean of networks of several recipes costs little if one of them is worse than it
    seemed. Clearly worse is a recipe whose paired differences to the best have a mean beyond their
    standard error.

    Args:
        scores: Cross-validated Dice by recipe, one value for each group; empty if unknown.
    """
    if not scores:
        return [QUICK]
    ranked = sorted(scores, key=lambda name: -float(scores[name].mean()))
    return [name for name in ranked if not _is_worse(scores[name] - scores[ranked[0]])]


def _is_worse(differences: Floats) -> bool:
    if len(differences) < 2:
        return False
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return bool(differences.mean() < -error)


def _for_rounds(good: Sequence[str], compared: Mapping[str, float]) -> str:
    """Return the recipe for the rounds that follow a comparison, "" without one."""
    if not compared:
        return ""
    leads = QUICK not in good and compared[good[0]] >= compared[QUICK] + LEAD
    return good[0] if leads else QUICK


def _by_cost(known: Sequence[Recipe]) -> list[Recipe]:
    """Return the recipes, the slowest first, so that all cores end at about the same time."""
    return sorted(known, key=lambda each: -each.cost)


def _members(chosen: Sequence[Recipe], least: int, left: float, together: Cores) -> list[Recipe]:
    """Return the recipe of each member, in turn: as many as the steps that are left suffice for.

    Args:
        chosen: The recipes that take turns.
        least: The steps of a round.
        left: What is left of the budget, in such steps, on each core.
        together: The cores.
    """

    def affordable(number: int) -> float:
        costs = [chosen[place % len(chosen)].cost for place in range(number)]
        return left / together.seconds(costs)

    fitting = [n for n in range(1, MOST_MEMBERS + 1) if affordable(n) >= LEAST_STEPS * least]
    number = max(fitting, default=1)
    steps = int(np.clip(affordable(number), least, MOST_STEPS * least))
    return [
        replace(each, config=replace(each.config, steps=steps, seed=each.config.seed + place))
        for place, each in enumerate(chosen[place % len(chosen)] for place in range(number))
    ]


def _trained(
    labelled: LabelledScans, members: Sequence[Recipe], least: int, work: _Work
) -> list[tuple[str, Fitted]]:
    """Return recipe and network of the first member, and of the others that took `least` steps.

    A network that was cut short earlier would pull the mean of all towards nothing.
    """

    def train(place: int) -> tuple[str, Fitted] | None:
        member = members[place]
        if place and work.late():
            return None
        fitted = work.fit(labelled, member, least=0 if place else least)
        return (member.name, fitted) if len(fitted.history) >= least else None

    pairs = work.cores.each([partial(train, place) for place in range(len(members))])
    return [pair for pair in pairs if pair is not None]


def _compared(
    labelled: LabelledScans, folds: NDArray[np.int64], known: Sequence[Recipe], work: _Work
) -> dict[str, Floats]:
    """Return the Dice of each group by recipe, of networks that learnt from the other groups.

    Without enough time for all of them nothing is returned.
    """
    pairs = [(each, fold) for each in _by_cost(known) for fold in np.unique(folds)]
    jobs = [partial(_dice, labelled, folds == fold, each, work) for each, fold in pairs]
    found: dict[str, dict[int, float]] = {each.name: {} for each in known}
    for (each, _), dice in zip(pairs, work.cores.each(jobs), strict=True):
        found[each.name] |= dice
    return {} if work.late() else {name: _by_group(labelled, found[name]) for name in found}


def _dice(
    labelled: LabelledScans, held: NDArray[np.bool_], recipe: Recipe, work: _Work
) -> dict[int, float]:
    """Return the Dice of the held-out scans by their number; none if it is late."""
    if work.late():
        return {}
    fitted, others = work.fit(labelled.part(~held), recipe), labelled.part(held)
    found = (each > 0.5 for each in work.watched(predict(fitted, others.images)))
    return dice_of_scans(found, others.masks, labelled.numbers[held].tolist())


def _by_group(labelled: LabelledScans, dice: Mapping[int, float]) -> Floats:
    group_of = dict(zip(labelled.numbers.tolist(), labelled.groups, strict=True))
    return group_means([dice[scan] for scan in sorted(dice)], [group_of[i] for i in sorted(dice)])


def until_stopped(
    stop: Callable[[], bool], predictions: Iterable[Probabilities]
) -> Iterator[Probabilities]:
    """Yield predictions.

    Raises:
        Stopped: If `stop`, which is asked after each prediction is made, returned True.
    """
    for prediction in predictions:
        if stop():
            raise Stopped
        yield prediction


class _Work:
    """What a refinement has spent of its budget, in steps of a round; trainings share it.

    Args:
        budget: Of each core.
        together: The cores.
        tell: As in `refine`, and so are `stop` and `late`.
    """

    def __init__(
        self,
        budget: float,
        together: Cores,
        tell: Callable[[float], None],
        stop: Callable[[], bool],
        late: Callable[[], bool],
    ) -> None:
        self.cores, self.late = together, late
        self._budget, self._tell, self._stop = budget * together.number, tell, stop
        self._spent, self._one_at_a_time = 0.0, threading.Lock()

    def watched(self, predictions: Iterable[Probabilities]) -> Iterator[Probabilities]:
        """Yield predictions; see `until_stopped`."""
        return until_stopped(self._is_stopped, predictions)

    def fit(self, labelled: LabelledScans, recipe: Recipe, *, least: int = 0) -> Fitted:
        """Train a network; if it is late, only for the least number of steps.

        Raises:
            Stopped: If the refinement was asked to stop.
        """
        taken = 0

        def spend(_: Progress) -> None:
            nonlocal taken
            taken += 1
            with self._one_at_a_time:
                self._spent += recipe.cost
                self._tell(min(self._spent / self._budget, 1.0))

        def end() -> bool:
            ends = self.cores.failed.is_set() or (taken >= least and self.late())
            return ends or self._is_stopped()

        fitted = labelled.fit(recipe.config, on_batch=spend, stop=end)
        if self._is_stopped():
            raise Stopped
        return fitted

    def _is_stopped(self) -> bool:
        with self._one_at_a_time:
            return self._stop()
