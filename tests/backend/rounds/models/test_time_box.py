from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.rounds.models.time_box import in_time, pace_of
from backend.storage.records import ModelQuality
from backend.storage.tables import Model
from model.recipes import LONGER, cost, default_config
from model.registry import IMAGENET, QUICK

CONFIG = default_config("cpu", 1)
SMALL, LARGE = np.zeros((2, 1, 100, 100), bool)
SMALL[0, :8, :8], LARGE[0, :40, :40] = True, True


def model(seconds: float, steps: int | None, recipe: str = QUICK) -> Model:
    quality = ModelQuality(train_seconds=seconds, steps=steps, recipes=[recipe])
    return Model(project_id=1, key="k", labels=5, quality=quality)


def steps(last: Model | None, recipe: str = QUICK) -> int:
    return in_time(CONFIG, recipe, [SMALL], last, 300).steps


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (5, LONGER * CONFIG.steps),  # there is time for all
        (15, 2 * CONFIG.steps),
        (60, CONFIG.steps),  # a slow machine: fewer steps draw little
    ],
)
def test_small_regions_are_learnt_for_as_long_as_a_round_has_time(
    seconds: float, expected: int
) -> None:
    assert steps(model(seconds, CONFIG.steps)) == expected


def test_a_shorter_limit_of_a_training_holds_in_a_round_too() -> None:
    last = model(10, CONFIG.steps)
    assert in_time(CONFIG, QUICK, [SMALL], last, 15).steps == CONFIG.steps * 3 // 2


def test_the_first_training_of_a_project_takes_the_steps_of_its_config() -> None:
    assert steps(None) == CONFIG.steps


def test_a_model_whose_steps_were_not_counted_tells_no_pace() -> None:
    assert steps(model(20, None)) == CONFIG.steps


def test_the_pace_is_that_of_a_step_of_the_quick_recipe() -> None:
    slow = model(9, 100, IMAGENET)
    assert pace_of(slow, CONFIG) == pytest.approx(0.09 / cost(IMAGENET, CONFIG))
    assert steps(slow) == int(30 / pace_of(slow, CONFIG))
    assert steps(slow, IMAGENET) == int(30 / 0.09)


def test_a_recipe_that_leaves_a_chosen_network_alone_takes_its_pace() -> None:
    chosen = default_config("cpu", 1, network="unet/resnet18")
    assert pace_of(model(9, 100, IMAGENET), chosen) == pytest.approx(0.09)


@given(st.floats(0, 1e6), st.integers(0, 10_000))
def test_large_regions_take_the_steps_of_their_config_whatever_the_pace(
    seconds: float, taken: int
) -> None:
    last = model(seconds, taken)
    assert in_time(CONFIG, QUICK, [LARGE], last, 300) == replace(CONFIG, adapt=False)
