"""The time that a training of a round may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.storage.tables import Model
from model import recipes
from model.fitted import TrainConfig
from model.recipes import Masks
from model.registry import QUICK

ROUND_SECONDS = 30.0  # in which the network of a round should be there


def recipe_of(model: Model) -> str:
    """Return the recipe with which a round trained a model."""
    return (model.quality.recipes or [QUICK])[0]


def pace_of(model: Model, quick: TrainConfig) -> float:
    """Return the seconds of a step of QUICK, as measured in the round that trained a model.

    After a change of the network this is the pace of the former one, for one round.
    """
    steps = recipes.cost(recipe_of(model), quick) * (model.quality.steps or 0)
    return max(model.quality.train_seconds or 0.0, 0.1) / max(steps, 1)


def in_time(
    quick: TrainConfig,
    recipe: str,
    masks: Sequence[Masks],
    last: Model | None,
    limit: float,
) -> TrainConfig:
    """Return the config of a recipe for these masks, with no more steps than there is time for.

    It has at least the recipe's own number of steps, on a slow machine too: with fewer a network
    draws little. If the pace is unknown it has just these: there is no earlier model, or its
    release did not count steps.

    Args:
        quick: As a round trains with QUICK.
        recipe: The name of the recipe.
        masks: Of the labelled scans, each of shape (classes, h, w).
        last: The model that the last round trained, if there is one.
        limit: Seconds that a training may take. A round gives it ROUND_SECONDS at most.
    """
    config = recipes.named(recipe, quick)
    fitting = recipes.adapted(config, masks)
    if last is None or last.quality.steps is None:
        return replace(fitting, steps=config.steps)
    seconds_a_step = pace_of(last, quick) * recipes.cost(recipe, quick)
    affordable = int(min(limit, ROUND_SECONDS) / seconds_a_step)
    return replace(fitting, steps=min(fitting.steps, max(affordable, config.steps)))
