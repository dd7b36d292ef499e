"""What must hold for every strategy, whatever its rule: one suite for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition, cold_start
from tests.model.planted import blobs, coarse_pools

Array = npt.NDArray[Any]

FEW = settings(max_examples=25)
EVERY_START = pytest.mark.parametrize("start", cold_start.STRATEGIES)
EVERY_ACQUISITION = pytest.mark.parametrize("rule", acquisition.STRATEGIES)


@st.composite
def start_pools(draw: st.DrawFn) -> dict[str, Any]:
    pool = draw(coarse_pools())
    n = len(pool["labelled"])
    return {"embeddings": np.zeros((n, 3), np.float32), "budget": draw(st.integers(1, 16)), **pool}


@st.composite
def scored_pools(draw: st.DrawFn) -> dict[str, Any]:
    pool = draw(coarse_pools())
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n = len(pool["labelled"])
    return {
        "uncertainty": rng.integers(0, draw(st.integers(1, 6)), n) / 5,
        "alpha": draw(st.sampled_from([0.0, 0.3, 1.0, "auto"])),
        "batch": draw(st.sampled_from([None, 1, 3, 20])),
        "random_fraction": draw(st.sampled_from([0.0, 0.0, 0.4, 1.0])),
        **pool,
    }


def is_a_fair_order(order: Array, labelled: Array) -> bool:
    """Every unlabelled row once and no other."""
    return bool(sorted(order.tolist()) == np.flatnonzero(~labelled).tolist())


def untouched_come_first(order: Array, groups: Array, labelled: Array) -> bool:
    waiting = set(groups[~labelled]) - set(groups[labelled])
    for row in order:
        if waiting and groups[row] not in waiting:
            return False
        waiting.discard(groups[row])
    return True


def unchanged(run: Callable[[], Any], pool: dict[str, Any]) -> bool:
    before = {key: np.copy(value) for key, value in pool.items() if isinstance(value, np.ndarray)}
    run()
    return all(np.array_equal(value, pool[key]) for key, value in before.items())


# -- cold start -----------------------------------------------------------------------------------


@pytest.mark.seconds
@EVERY_START
@FEW
@given(pool=start_pools())
def test_a_cold_start_orders_the_unlabelled_pool_the_same_each_time(
    start: str, pool: dict[str, Any]
) -> None:
    first = cold_start.select(**pool, strategy=start)

    assert is_a_fair_order(first.order, pool["labelled"])
    assert unchanged(lambda: cold_start.select(**pool, strategy=start), pool)
    assert np.array_equal(cold_start.select(**pool, strategy=start).order, first.order)
    assert first.clusters.shape == pool["labelled"].shape
    assert first.medoids.shape == (first.k,)


@pytest.mark.seconds
@EVERY_START
@FEW
@given(pool=start_pools(), data=st.data())
def test_labelling_within_the_budget_leaves_the_rest_in_order(
    start: str, pool: dict[str, Any], data: st.DataObject
) -> None:
    whole = cold_start.select(**pool, strategy=start)
    left = max(0, pool["budget"] - int(pool["labelled"].sum()))
    length = data.draw(st.integers(0, min(left, len(whole.order))))
    labelled = pool["labelled"].copy()
    labelled[whole.order[:length]] = True

    rest = cold_start.select(**{**pool, "labelled": labelled}, strategy=start)

    assert rest.order.tolist() == whole.order[length:].tolist()


@pytest.mark.seconds
@EVERY_START
@FEW
@given(pool=start_pools())
def test_a_cold_start_takes_an_untouched_group_before_a_touched_one(
    start: str, pool: dict[str, Any]
) -> None:
    groups = np.arange(len(pool["labelled"])) % 4

    order = cold_start.select(**{**pool, "groups": groups}, strategy=start).order

    assert untouched_come_first(order, groups, pool["labelled"])


@EVERY_START
def test_beyond_the_greedy_part_a_cold_start_still_orders_the_whole_pool(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.cold_start.strategy.GREEDY", 4)
    points = blobs(3, 12)
    groups = np.arange(36) % 30

    order = cold_start.select(points, 3, strategy=start, coordinates=points, groups=groups).order

    assert sorted(order) == list(range(36))
    assert untouched_come_first(order, groups, np.zeros(36, bool))


@EVERY_START
def test_a_sampled_cold_start_still_orders_the_whole_pool(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.pool.LARGE", 40)
    monkeypatch.setattr("model.pool.SAMPLE", 30)
    points = blobs(5, 40)

    found = cold_start.select(points, 5, strategy=start, coordinates=points)

    assert sorted(found.order) == list(range(200))
    if start != "random":
        assert len({row // 40 for row in found.order[:5]}) >= 4


@pytest.mark.seconds
@EVERY_START
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_cold_start_does_not_depend_on_the_units_of_the_map(start: str, scale: float) -> None:
    points = blobs(4, 15)
    options: dict[str, Any] = {"budget": 6, "strategy": start}

    one = cold_start.select(points, coordinates=points, **options)
    other = cold_start.select(points, coordinates=points * scale, **options)

    assert other.order[:6].tolist() == one.order[:6].tolist()


@cache
def blobs_hit(start: str, seed: int) -> int:
    """How many of eight planted blobs, half of them rare, a budget of eight reaches."""
    rows = np.concatenate([np.arange(30 if b % 2 else 8) + 30 * b for b in range(8)])
    points = blobs(8, 30, seed)[rows]
    order = cold_start.select(points, 8, strategy=start, coordinates=points, seed=seed).order
    return len(set((rows // 30)[order[:8]]))


def beats_chance(found: list[int], chance: list[int]) -> bool:
    """Better on average by three standard errors of both."""
    spread = np.sqrt(np.var(found) / len(found) + np.var(chance) / len(chance))
    return bool(np.mean(found) > np.mean(chance) + 3 * spread)


@pytest.mark.slow
@EVERY_START
def test_a_cold_start_finds_more_planted_blobs_than_chance(start: str) -> None:
    chance = [blobs_hit("random", seed) for seed in range(100, 120)]

    found = [blobs_hit(start, seed) for seed in range(20)]

    assert beats_chance(found, chance) == (start != "random")


# -- acquisition ----------------------------------------------------------------------------------


@pytest.mark.seconds
@EVERY_ACQUISITION
@FEW
@given(pool=scored_pools())
def test_an_acquisition_orders_the_unlabelled_pool_the_same_each_time(
    rule: str, pool: dict[str, Any]
) -> None:
    first = acquisition.rank(**pool, strategy=rule)

    assert is_a_fair_order(first.order, pool["labelled"])
    assert unchanged(lambda: acquisition.rank(**pool, strategy=rule), pool)
    again = acquisition.rank(**pool, strategy=rule)
    for name in ("order", "utility", "uncertainty", "diversity", "control"):
        assert np.array_equal(getattr(again, name), getattr(first, name), equal_nan=True)
        assert getattr(first, name).shape == first.order.shape
    for term in (first.uncertainty, first.diversity):
        assert ((term >= 0) & (term <= 1)).all()


@EVERY_ACQUISITION
@FEW
@given(pool=scored_pools())
def test_an_acquisition_takes_an_untouched_group_before_a_touched_one(
    rule: str, pool: dict[str, Any]
) -> None:
    groups = np.arange(len(pool["labelled"])) % 4

    order = acquisition.rank(**{**pool, "groups": groups}, strategy=rule).order

    assert untouched_come_first(order, groups, pool["labelled"])


@EVERY_ACQUISITION
def test_the_control_arm_is_spread_over_the_batch_and_follows_the_seed(rule: str) -> None:
    rng = np.random.default_rng(0)
    pool: tuple[Array, ...] = (rng.random(200), rng.random((200, 2)), np.arange(200) < 3)

    def ranked(fraction: float, seed: int) -> acquisition.Ranking:
        return acquisition.rank(*pool, strategy=rule, batch=10, random_fraction=fraction, seed=seed)

    assert np.flatnonzero(ranked(0.3, 0).control).tolist() == [0, 3, 6]  # three are labelled
    assert not ranked(0.0, 0).control.any()
    drawn = ranked(0.3, 0).order[[0, 3, 6]], ranked(0.3, 1).order[[0, 3, 6]]
    assert drawn[0].tolist() != drawn[1].tolist()
    assert ranked(1.0, 0).order[:10].tolist() != ranked(1.0, 1).order[:10].tolist()


@EVERY_ACQUISITION
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_candidate_without_a_number_is_refused_and_a_labelled_one_is_not_read(
    rule: str, bad: float
) -> None:
    uncertainty = np.array([0.5, bad, 0.2])
    points = np.arange(6.0).reshape(3, 2)

    kept = acquisition.rank(uncertainty, points, np.array([False, True, False]), strategy=rule)

    assert sorted(kept.order) == [0, 2]
    with pytest.raises(ValueError, match="1 candidates is NaN or infinite, first row 1"):
        acquisition.rank(uncertainty, points, np.zeros(3, bool), strategy=rule)


@EVERY_ACQUISITION
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_an_acquisition_does_not_depend_on_the_units_of_its_inputs(rule: str, scale: float) -> None:
    rng = np.random.default_rng(1)
    uncertainty, points, labelled = rng.random(60), blobs(4, 15), np.arange(60) % 20 == 0
    options: dict[str, Any] = {"strategy": rule, "batch": 6}

    one = acquisition.rank(uncertainty, points, labelled, **options)
    other = acquisition.rank(uncertainty * scale, points * scale, labelled, **options)

    assert other.order[:6].tolist() == one.order[:6].tolist()


@cache
def gains(rule: str, seed: int) -> int:
    """In how many of four unlabelled blobs a batch of four finds an uncertain scan."""
    rng = np.random.default_rng(seed)
    points, blob = blobs(6, 20, seed), np.repeat(np.arange(6), 20)
    uncertain = rng.random(120) < 0.5
    uncertainty = np.where(uncertain, 0.9, 0.1) + 0.05 * rng.random(120)
    labelled = np.isin(np.arange(120), [0, 25])
    batch = acquisition.rank(
        uncertainty, points, labelled, strategy=rule, batch=4, seed=seed
    ).order[:4]
    return len({blob[row] for row in batch if uncertain[row] and blob[row] >= 2})


@pytest.mark.slow
@EVERY_ACQUISITION
def test_an_acquisition_finds_more_uncertain_places_than_chance(rule: str) -> None:
    chance = [gains("random", seed) for seed in range(1000, 1100)]

    found = [gains(rule, seed) for seed in range(100)]

    assert beats_chance(found, chance) == (rule != "random")
