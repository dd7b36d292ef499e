from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import recipes, refinement
from model.fitted import TrainConfig
from model.inference import predict
from model.preprocessing import Image
from model.refinement import LabelledScans, Stopped, candidates, choose, refine, split
from model.registry import IMAGENET, PARTS, QUICK, WHOLE
from model.side_by_side import Cores, using_threads
from model.uncertainty import Probabilities
from tests.model.scans import disc

CONFIG = TrainConfig(recipes.FOR_CPU, 32, 1, steps=4, batch_size=2, learning_rate=6e-3, adapt=True)
IMAGES, MASKS = zip(*(disc(40, 40, seed=seed) for seed in range(6)), strict=True)
LABELLED = LabelledScans(IMAGES, MASKS, [0, 0, 1, 2, 3, 4])
ENOUGH = 200.0


@given(groups=st.lists(st.integers(0, 9), min_size=1, max_size=40), seed=st.integers(0, 2**32 - 1))
def test_folds_are_even_and_divide_no_group(groups: list[int], seed: int) -> None:
    folds = split(groups, seed)
    fold_of = dict(zip(groups, folds.tolist(), strict=True))
    assert [fold_of[group] for group in groups] == folds.tolist()
    sizes = np.bincount(list(fold_of.values()), minlength=refinement.FOLDS)
    assert sizes.max() - sizes.min() <= 1


def test_the_recipes_that_are_not_clearly_worse_are_chosen_the_best_first() -> None:
    quick = np.array([0.6, 0.7, 0.8, 0.9])
    clear, noise = np.array([0.1, 0.12, 0.09, 0.11]), np.array([0.5, -0.3, 0.1, -0.2])
    assert choose({}) == [QUICK]
    assert choose({QUICK: quick, "other": quick + clear}) == ["other"]
    assert choose({QUICK: quick, "other": quick - clear}) == [QUICK]
    assert choose({QUICK: quick, "other": quick + noise}) == ["other", QUICK]
    assert choose({QUICK: quick, "other": quick - noise, "third": quick - clear}) == [
        QUICK,
        "other",
    ]
    assert len(choose({QUICK: quick[:1], "other": quick[:1] + 0.3})) == 2, "one group says little"


def test_rounds_change_their_recipe_for_a_clear_lead_only() -> None:
    for_rounds = refinement._for_rounds
    assert for_rounds([QUICK], {}) == ""
    assert for_rounds([PARTS], {QUICK: 0.5, PARTS: 0.5 + refinement.LEAD}) == PARTS
    assert for_rounds([PARTS], {QUICK: 0.5, PARTS: 0.52}) == QUICK
    assert for_rounds([PARTS, QUICK], {QUICK: 0.5, PARTS: 0.7}) == QUICK, "it may be chance"


def test_an_empty_page_of_a_slab_hides_no_error_of_a_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(fitted: object, images: Sequence[Image]) -> Iterator[Probabilities]:
        return (np.zeros((1, 40, 40), np.float32) for _ in images)

    monkeypatch.setattr(refinement, "predict", nothing)
    empty = np.zeros_like(MASKS[0])
    masks = [mask for drawn in MASKS[:3] for mask in (drawn, empty)]
    pages, groups = [IMAGES[0]] * 6, [0, 0, 1, 1, 2, 2]
    work = refinement._Work(ENOUGH, Cores(), lambda share: None, lambda: False, lambda: False)
    monkeypatch.setattr(work, "fit", lambda *_, **__: None)
    quick = candidates(CONFIG, masks)[0]
    slabs = LabelledScans(pages, masks, groups, scans=groups)
    for labelled, dice in ((slabs, 0.0), (replace(slabs, scans=None), 0.5)):
        found = refinement._compared(labelled, split(groups, 0), [quick], work)
        assert found[QUICK].tolist() == [dice] * 3


def test_the_candidates_differ_in_scale_and_start() -> None:
    small = np.zeros((1, 100, 100), bool)
    small[0, :8, :8] = True
    for masks, other in (([small], WHOLE), (MASKS, PARTS)):
        found = {each.name: each.config for each in candidates(CONFIG, masks)}
        assert list(found) == [QUICK, other, IMAGENET]
        assert {found[QUICK].crop, found[other].crop} == {0, 32}
        assert found[IMAGENET].crop == found[QUICK].crop
        assert found[IMAGENET].init == "imagenet"
    fixed = replace(CONFIG, adapt=False)
    assert [each.name for each in candidates(fixed, [small])] == [QUICK, IMAGENET]
    chosen = replace(fixed, network="unet/resnet18")
    assert [each.name for each in candidates(chosen, [small])] == [QUICK]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the large network."""
    monkeypatch.setattr(refinement, "candidates", lambda *given: candidates(*given)[:2])


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """Let results not depend on the machine."""
    with using_threads(1):
        yield


@pytest.fixture
def two_cores(one_core: None) -> Iterator[None]:
    with using_threads(2):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_recipes_are_compared_and_several_networks_trained_the_same_for_a_seed() -> None:
    shares: list[float] = []
    first = refine(LABELLED, CONFIG, ENOUGH, tell=shares.append)
    again = refine(LABELLED, CONFIG, ENOUGH)
    assert set(first.compared) == {QUICK, PARTS}
    assert first.compared == again.compared
    assert first.recipes == again.recipes
    assert len(first.recipes) == refinement.MOST_MEMBERS
    assert len(first.model.members) == refinement.MOST_MEMBERS
    assert len({member.config.seed for member in first.model.members}) == refinement.MOST_MEMBERS
    assert len({member.config.steps for member in first.model.members}) == 1
    assert shares == sorted(shares)
    for one, other in zip(predict(first.model, IMAGES), predict(again.model, IMAGES), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("small")
def test_two_cores_have_time_for_a_comparison_where_one_has_not() -> None:
    little = 30.0
    assert refine(LABELLED, CONFIG, little).compared == {}
    with using_threads(2):
        first, again = (refine(LABELLED, CONFIG, little) for _ in range(2))
    assert set(first.compared) == {QUICK, PARTS}
    assert (first.compared, first.recipes) == (again.compared, again.recipes)
    for one, other in zip(predict(first.model, IMAGES), predict(again.model, IMAGES), strict=True):
        np.testing.assert_array_equal(one, other)


@given(budget=st.floats(0, 500), cores=st.integers(1, 4), number=st.integers(1, 3))
def test_members_fit_into_the_budget_and_take_at_least_twice_the_steps(
    budget: float, cores: int, number: int
) -> None:
    chosen = candidates(CONFIG, MASKS)[:number]
    members = refinement._members(chosen, CONFIG.steps, budget, Cores(cores))
    steps = members[0].config.steps
    assert {each.config.steps for each in members} == {steps}
    assert refinement.MOST_STEPS * CONFIG.steps >= steps >= CONFIG.steps
    if len(members) > 1:
        assert steps >= refinement.LEAST_STEPS * CONFIG.steps
        assert Cores(cores).seconds([each.cost * steps for each in members]) <= budget + 1e-6


@pytest.mark.usefixtures("small", "two_cores")
@pytest.mark.parametrize("after", [0, 13, 30, 60, 78])
def test_on_two_cores_every_network_has_learnt_and_bears_its_recipe(after: int) -> None:
    taken: list[float] = []
    refined = refine(LABELLED, CONFIG, ENOUGH, tell=taken.append, late=lambda: len(taken) >= after)
    members = refined.model.members
    assert len(members) == len(refined.recipes)
    assert len(members[0].history) >= CONFIG.steps
    for name, member in zip(refined.recipes, members, strict=True):
        assert len(member.history) >= CONFIG.steps, "else it would spoil the mean"
        assert (name == PARTS) == (member.config.crop > 0)


@pytest.mark.parametrize(
    "quick",
    [
        replace(CONFIG, network="fpn/resnet18", adapt=False),
        replace(CONFIG, image_size=128),
        replace(CONFIG, device="cuda"),
    ],
    ids=["another network", "large images", "GPU"],
)
def test_what_gains_from_all_cores_gets_them(quick: TrainConfig) -> None:
    assert refinement._is_small(CONFIG)
    assert refinement._is_small(replace(CONFIG, network=recipes.whole(CONFIG.network)))
    assert not refinement._is_small(quick)


@pytest.mark.parametrize(
    ("labelled", "budget"),
    [(LABELLED, 20.0), (LabelledScans(IMAGES, MASKS, [0, 0, 1, 1, 2, 2]), ENOUGH)],
    ids=["little time", "few groups"],
)
def test_without_a_comparison_the_recipe_of_a_round_is_trained_for_longer(
    labelled: LabelledScans, budget: float
) -> None:
    refined = refine(labelled, CONFIG, budget)
    assert (set(refined.recipes), refined.compared, refined.best) == ({QUICK}, {}, "")
    for member in refined.model.members:
        assert member.config.steps > CONFIG.steps
        assert (member.config.image_size, member.config.crop) == (32, 0)


@pytest.mark.slow
def test_a_network_may_start_from_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "candidates", lambda *given: candidates(*given)[2:])
    monkeypatch.setattr(refinement, "choose", lambda _: [IMAGENET])
    refined = refine(LABELLED, CONFIG, 30.0)
    assert refined.recipes[0] == IMAGENET
    assert refined.model.members[0].config.init == "imagenet"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", [0, 15])
def test_when_the_time_is_over_the_networks_so_far_are_the_result(after: int) -> None:
    taken: list[float] = []
    refined = refine(LABELLED, CONFIG, ENOUGH, tell=taken.append, late=lambda: len(taken) >= after)
    first, *others = refined.model.members
    assert len(first.history) >= CONFIG.steps, "the first one takes the steps of a round"
    assert len(first.history) == first.config.steps, "its learning rate fell to the end"
    assert len(refined.recipes) == 1 + len(others)
    if after < 20:
        assert refined.compared == {}, "a comparison that was cut short does not count"
        assert others == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("after", [0, 30])
def test_refinement_ends_without_a_result_as_soon_as_it_is_told_to(after: int, cores: int) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > after

    with using_threads(cores), pytest.raises(Stopped):
        refine(LABELLED, CONFIG, ENOUGH, stop=stop)
    assert len(asked) <= after + 2 * cores, "no core takes a further step"


@pytest.mark.slow
def test_a_scale_that_loses_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-validation is run for real: a network that sees nothing draws nothing."""
    blind = replace(CONFIG, steps=1, adapt=False)
    able = replace(recipes.default_config("cpu", 1, image_size=32), steps=60)
    known = [
        refinement.Recipe(QUICK, blind, 1.0),
        refinement.Recipe(WHOLE, able, 1.0),
    ]
    monkeypatch.setattr(refinement, "candidates", lambda *_: known)
    refined = refine(LABELLED, CONFIG, 310.0)
    assert set(refined.recipes) == {WHOLE}
    assert refined.best == WHOLE
    assert refined.compared[WHOLE] > refined.compared[QUICK] + 0.2
