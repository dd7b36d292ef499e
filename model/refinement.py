"""Refinement: more training on the same labels, with the recipe that cross-validation prefers.

A round trains for half a minute, because a person waits for the next queue. While nobody waits,
refinement first compares recipes (scale, encoder, start) by cross-validation on the labels that
are there, and then trains several networks for longer: with the better recipe, and in turn with
those that are not clearly worse. The probabilities of these networks are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model import recipes, training
from model.ensemble import Ensemble
from model.evaluation import dice_of_scans
from model.fitted import Fitted, TrainConfig
from model.inference import predict
from model.preprocessing import Image
from model.registry import IMAGENET, PARTS, QUICK, WHOLE
from model.training import Masks, Progress
from model.uncertainty import Probabilities
from model.validation import group_means

FOLDS = 3
LEAST_GROUPS = 4  # with fewer a fold trains on too little to say anything
MOST_MEMBERS = 3
COMPARISON = 0.6  # largest share of the budget for comparing recipes
# A member takes at least twice and at most five times the steps of `quick`, with small regions too.
LEAST_STEPS, MOST_STEPS = 2, 5
# Rounds change their recipe only for so much Dice: they have less time for a slower network than
# the comparison gives it. On hearts EfficientNet-Lite0 lost in equal time and won in 600 steps.
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

    @property
    def cost(self) -> float:
        """The time of a step, in steps of QUICK."""
        return recipes.COSTS[self.name]


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
        Recipe(name, replace(recipes.adapted(config, masks), steps=quick.steps))
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

    It is repeatable for a seed, as long as `late` does not cut it short.

    At most COMPARISON of the budget is spent on comparing recipes. If that is not enough, or if
    there are fewer than LEAST_GROUPS groups, all of it goes into training with the recipe of a
    round.

    Args:
        labelled: The labelled scans.
        quick: The settings of a round's training before `recipes.adapted`, with init "scratch".
        budget: How many steps of a round the refinement may cost.
        tell: Called after every step with the share of the budget that is spent.
        stop: Called before every step; if it returns True, refinement ends without a result.
        late: Called before every step; if it returns True, refinement ends with the networks that
            it has, the last of them cut short. A comparison that is cut short does not count. The
            first network takes at least the steps of `quick`.

    Raises:
        Stopped: If `stop` returned True.
        ValueError, Untrainable: As in `training.fit`.
    """
    work = _Work(budget, tell, stop, late)
    known = candidates(quick, labelled.masks)
    scores: dict[str, Floats] = {}
    if _comparison_cost(known) <= COMPARISON * budget and len(set(labelled.groups)) >= LEAST_GROUPS:
        folds = split(labelled.groups, quick.seed)
        for each in known:
            if not late():
                scores[each.name] = _cross_validated(labelled, folds, each, work)
        scores = {} if late() else scores
    by_name, good = {each.name: each for each in known}, choose(scores)
    chosen = list(_members([by_name[name] for name in good], quick.steps, work.left))
    members: list[Fitted] = []
    for each in chosen:
        if not (members and late()):
            least = 0 if members else quick.steps
            members.append(work.fit(labelled, each.config, each.cost, least=least))
    compared = {name: float(values.mean()) for name, values in scores.items()}
    names = tuple(each.name for each in chosen[: len(members)])
    return Refinement(Ensemble(tuple(members)), names, compared, _for_rounds(good, compared))


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


def _comparison_cost(known: Sequence[Recipe]) -> float:
    return sum(FOLDS * each.config.steps * each.cost for each in known)


def _members(chosen: Sequence[Recipe], least: int, left: float) -> Iterator[Recipe]:
    """Yield the recipe of each member, in turn: as many as the steps that are left suffice for."""
    number = int(np.clip(left // (LEAST_STEPS * least * chosen[0].cost), 1, MOST_MEMBERS))
    members = [chosen[place % len(chosen)] for place in range(number)]
    steps = int(np.clip(left / sum(each.cost for each in members), least, MOST_STEPS * least))
    for place, each in enumerate(members):
        yield replace(each, config=replace(each.config, steps=steps, seed=each.config.seed + place))


def _cross_validated(
    labelled: LabelledScans, folds: NDArray[np.int64], recipe: Recipe, work: _Work
) -> Floats:
    """Return the Dice of each group, predicted by a network that was trained on other groups."""
    scans = range(len(labelled.images)) if labelled.scans is None else labelled.scans
    dice: dict[int, float] = {}
    for fold in np.unique(folds):
        held = folds == fold
        fitted = work.fit(labelled.part(~held), recipe.config, recipe.cost)
        others = labelled.part(held)
        found = (each > 0.5 for each in work.watched(predict(fitted, others.images)))
        dice |= dice_of_scans(found, others.masks, [scans[row] for row in np.flatnonzero(held)])
    group_of = dict(zip(scans, labelled.groups, strict=True))
    return group_means([*dice.values()], [group_of[scan] for scan in dice])


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
    """What a refinement has spent of its budget, in steps of a round."""

    def __init__(
        self,
        budget: float,
        tell: Callable[[float], None],
        stop: Callable[[], bool],
        late: Callable[[], bool],
    ) -> None:
        self._budget, self._tell, self._stop, self._late = budget, tell, stop, late
        self._spent = 0.0

    @property
    def left(self) -> float:
        """What is left of the budget."""
        return max(self._budget - self._spent, 0.0)

    def watched(self, predictions: Iterable[Probabilities]) -> Iterator[Probabilities]:
        """Yield predictions; see `until_stopped`."""
        return until_stopped(self._stop, predictions)

    def fit(
        self,
        labelled: LabelledScans,
        config: TrainConfig,
        cost: float,
        *,
        least: int = 0,
    ) -> Fitted:
        """Train a network; if it is late, only for the least number of steps.

        Raises:
            Stopped: If the refinement was asked to stop.
        """

        taken = 0

        def spend(_: Progress) -> None:
            nonlocal taken
            taken += 1
            self._spent += cost
            self._tell(min(self._spent / self._budget, 1.0))

        def end() -> bool:
            return self._stop() or (taken >= least and self._late())

        fitted = labelled.fit(config, on_batch=spend, stop=end)
        if self._stop():
            raise Stopped
        return fitted
