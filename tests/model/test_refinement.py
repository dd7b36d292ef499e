from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import recipes, refinement
from model.fitted import TrainConfig
from model.inference import predict
from model.refinement import Labelled, Stopped, candidates, choose, refine, split
from model.registry import QUICK
from tests.model.scans import disc

CONFIG = TrainConfig("tu-test_resnet", 32, 1, steps=4, batch_size=2, learning_rate=6e-3, adapt=True)
IMAGES, MASKS = zip(*(disc(40, 40, seed=seed) for seed in range(6)), strict=True)
LABELLED = Labelled(IMAGES, MASKS, [0, 0, 1, 2, 3, 4])
ENOUGH = 200.0


@given(groups=st.lists(st.integers(0, 9), min_size=1, max_size=40), seed=st.integers(0, 2**32 - 1))
def test_folds_are_even_and_divide_no_group(groups: list[int], seed: int) -> None:
    folds = split(groups, seed)
    fold_of = dict(zip(groups, folds.tolist(), strict=True))
    assert [fold_of[group] for group in groups] == folds.tolist()
    sizes = np.bincount(list(fold_of.values()), minlength=refinement.FOLDS)
    assert sizes.max() - sizes.min() <= 1


def test_the_recipe_of_a_round_stays_unless_another_is_clearly_better() -> None:
    quick = np.array([0.6, 0.7, 0.8, 0.9])
    assert choose({}) == QUICK
    assert choose({QUICK: quick, "other": np.add(quick, [0.1, 0.12, 0.09, 0.11])}) == "other"
    assert choose({QUICK: quick, "other": np.add(quick, [0.5, -0.3, 0.1, -0.2])}) == QUICK
    assert choose({QUICK: quick, "other": quick - 0.1}) == QUICK
    assert choose({QUICK: quick[:1], "other": quick[:1] + 0.3}) == QUICK, "one group says nothing"


def test_the_candidates_differ_in_scale_and_start() -> None:
    small = np.zeros((1, 100, 100), bool)
    small[0, :8, :8] = True
    for masks, other in (([small], "whole scans"), (MASKS, "parts of scans")):
        found = {each.name: each.config for each in candidates(CONFIG, masks)}
        assert list(found) == [QUICK, other, "ImageNet start"]
        assert {found[QUICK].crop, found[other].crop} == {0, 32}
        assert found["ImageNet start"].crop == found[QUICK].crop
        assert found["ImageNet start"].init == "imagenet"
    fixed = replace(CONFIG, adapt=False)
    assert [each.name for each in candidates(fixed, [small])] == [QUICK, "ImageNet start"]


def test_recipes_are_compared_and_several_networks_trained_the_same_for_a_seed() -> None:
    shares: list[float] = []
    first = refine(LABELLED, CONFIG, ENOUGH, tell=shares.append)
    again = refine(LABELLED, CONFIG, ENOUGH)
    assert set(first.compared) == {QUICK, "parts of scans", "ImageNet start"}
    assert first.compared == again.compared
    assert first.recipe == again.recipe
    assert len(first.model.members) == refinement.MOST_MEMBERS
    assert len({member.config.seed for member in first.model.members}) == refinement.MOST_MEMBERS
    assert shares == sorted(shares)
    for one, other in zip(predict(first.model, IMAGES), predict(again.model, IMAGES), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("labelled", "budget"),
    [(LABELLED, 20.0), (Labelled(IMAGES, MASKS, [0, 0, 1, 1, 2, 2]), ENOUGH)],
    ids=["little time", "few groups"],
)
def test_without_a_comparison_the_recipe_of_a_round_is_trained_for_longer(
    labelled: Labelled, budget: float
) -> None:
    refined = refine(labelled, CONFIG, budget)
    assert (refined.recipe, refined.compared) == (QUICK, {})
    for member in refined.model.members:
        assert member.config.steps > CONFIG.steps
        assert (member.config.image_size, member.config.crop) == (32, 0)


@pytest.mark.parametrize("after", [0, 1, 30, 100])
def test_refinement_ends_without_a_result_as_soon_as_it_is_told_to(after: int) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > after

    with pytest.raises(Stopped):
        refine(LABELLED, CONFIG, ENOUGH, stop=stop)
    assert len(asked) <= after + 2, "no further step is taken"


def test_a_scale_that_loses_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-validation is run for real: a network that sees nothing draws nothing."""
    blind = replace(CONFIG, steps=1, adapt=False)
    able = replace(recipes.default_config("cpu", 1, image_size=32), steps=60)
    known = [
        refinement.Recipe(QUICK, blind, 1.0),
        refinement.Recipe("able", able, 1.0),
    ]
    monkeypatch.setattr(refinement, "candidates", lambda *_: known)
    refined = refine(LABELLED, CONFIG, 800.0)
    assert refined.recipe == "able"
    assert refined.compared["able"] > refined.compared[QUICK] + 0.2
