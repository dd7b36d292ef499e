from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.kernels import BLOCK, Coverage, Herding, bandwidth, share_alike
from tests.model.planted import blobs

Array = npt.NDArray[Any]


def test_nothing_covers_nothing_and_all_covers_all() -> None:
    points = blobs(3, 10)
    coverage = Coverage(points, 1.0)

    assert coverage.share == 0
    coverage.cover(points[:10])
    assert 0.3 < coverage.share < 0.4  # one blob of three
    coverage.cover(points)
    assert coverage.share == 1


def test_a_gain_is_what_the_share_grows_by() -> None:
    points, weights = blobs(4, 8), np.random.default_rng(0).random(32)
    coverage = Coverage(points, 3.0, weights=weights)
    coverage.cover(points[:2])
    before, [gain] = coverage.share, coverage.gains(points[20:21])

    coverage.cover(points[20:21])

    assert coverage.share == pytest.approx(before + gain, rel=1e-5)


def test_a_bandwidth_of_zero_covers_equal_scans_alone() -> None:
    points = np.repeat(np.eye(2), [3, 1], axis=0)
    coverage = Coverage(points, 0.0)

    coverage.cover(points[:1])

    assert coverage.share == pytest.approx(0.75)


@pytest.mark.parametrize("bandwidth", [1e-30, 1e-160])
def test_a_tiny_bandwidth_is_like_none(bandwidth: float) -> None:
    points = np.repeat(np.eye(2), [3, 1], axis=0)
    coverage = Coverage(points, bandwidth)

    coverage.cover(points[:1])

    assert coverage.share == pytest.approx(0.75)


def test_scans_without_weight_count_alike() -> None:
    points = blobs(2, 5)

    assert Coverage(points, 1.0, weights=np.zeros(10)).gains(points).all()


def pick_all(points: Array, allowed: Array, costs: Array | None = None) -> list[int]:
    """Return every allowed row, in the order of the accelerated choice."""
    herding, left, picks = Herding(points, Coverage(points, 0.3), costs), allowed.copy(), []
    while left.any():
        row = herding.best(left)
        herding.choose(row)
        left[row] = False
        picks.append(row)
    return picks


def pick_plainly(points: Array, allowed: Array, costs: Array) -> list[int]:
    """Return the same rows by looking at every gain each time."""
    coverage, left, picks = Coverage(points, 0.3), allowed.copy(), []
    while left.any():
        row = int(np.argmax(np.where(left, coverage.gains(points) / costs, -np.inf)))
        coverage.cover(points[row : row + 1])
        left[row] = False
        picks.append(row)
    return picks


def test_the_lazy_choice_is_that_of_looking_at_every_gain_each_time() -> None:
    points = np.random.default_rng(0).normal(size=(3 * BLOCK, 2))
    allowed = np.arange(len(points)) < 30

    assert pick_all(points, allowed) == pick_plainly(points, allowed, np.ones(len(points)))


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_whatever_the_costs_the_lazy_choice_is_the_plain_one(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    points, costs, allowed = (
        rng.integers(0, 5, (n, 2)) / 4,
        rng.random(n) + 0.1,
        rng.random(n) < 0.8,
    )

    assert pick_all(points, allowed, costs) == pick_plainly(points, allowed, costs)


def test_of_a_very_large_pool_drawn_scans_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.pool.LARGE", 20)
    monkeypatch.setattr("model.pool.SAMPLE", 20)
    monkeypatch.setattr("model.kernels.COMPARED", 25)
    points, allowed = blobs(5, 20), np.ones(100, bool)
    herding, coverage = Herding(points, Coverage(points, 1.0)), Coverage(points, 1.0)

    assert np.count_nonzero(herding.gains) == 25
    for _ in range(5):
        row = herding.best(allowed)
        herding.choose(row)
        coverage.cover(points[row : row + 1])

    assert coverage.share > 0.5  # each blob has a pick


def test_scans_that_were_not_drawn_are_compared_when_no_other_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.pool.LARGE", 20)
    monkeypatch.setattr("model.pool.SAMPLE", 20)
    monkeypatch.setattr("model.kernels.COMPARED", 25)
    points = blobs(5, 20)
    herding = Herding(points, Coverage(points, 1.0))
    allowed = herding.gains == 0

    assert allowed[herding.best(allowed)]


@pytest.mark.seconds
def test_a_bandwidth_follows_the_units_and_shrinks_with_the_budget() -> None:
    points = np.random.default_rng(0).normal(size=(200, 2))

    assert bandwidth(points * 7, 10) == pytest.approx(7 * bandwidth(points, 10))
    found = [bandwidth(points, count) for count in (1, 5, 20, 80)]
    assert found == sorted(found, reverse=True)
    assert bandwidth(points[:0], 3) == 0
    assert bandwidth(points[:1], 3) == 0


def test_a_large_pool_is_judged_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.pool.LARGE", 100)
    monkeypatch.setattr("model.pool.SAMPLE", 60)
    points = blobs(4, 50)
    coverage = Coverage(points, 2.0)

    coverage.cover(points[:50])

    assert 0.1 < coverage.share < 0.4
    assert len(coverage.gains(points)) == 200


@given(st.permutations(range(12)))
def test_every_label_adds_to_the_covered_share_from_none_to_all(order: list[int]) -> None:
    points, labelled = blobs(3, 4), np.zeros(12, bool)
    shares = [share_alike(points, labelled)]
    for row in order:
        labelled[row] = True
        shares.append(share_alike(points, labelled))
    assert shares[0] == 0
    assert shares[-1] == 1
    assert np.diff(shares).min() >= 0


def test_one_label_in_each_tight_group_is_near_most_scans_and_all_in_one_group_near_a_third() -> (
    None
):
    points = blobs(3, 10)
    spread, heaped = np.zeros((2, 30), bool)
    spread[[0, 10, 20]], heaped[:10] = True, True
    assert share_alike(points, spread) > 0.6
    assert share_alike(points, heaped) == pytest.approx(1 / 3)


def test_equal_scans_are_covered_by_one_label_among_them() -> None:
    labelled = np.array([True, False, False, False])
    assert share_alike(np.zeros((4, 2)), labelled) == 1
    assert share_alike(np.zeros((0, 2)), np.zeros(0, bool)) == 1


def test_the_share_of_a_large_pool_is_estimated_from_a_sample() -> None:
    points = blobs(4, 1500)
    labelled = np.zeros(len(points), bool)
    labelled[:1500] = True
    assert share_alike(points, labelled) == pytest.approx(1 / 4, abs=0.02)
