from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import resampling

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


def test_fewer_than_two_values_have_no_interval() -> None:
    assert resampling.mean([]) is None
    assert resampling.mean([3.0]) is None


@given(VALUES)
def test_the_interval_holds_the_mean_and_repeats_with_its_seed(values: list[float]) -> None:
    found = resampling.mean(values, seed=3)
    assert found is not None
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found == resampling.mean(values, seed=3)


def test_equal_values_leave_no_doubt() -> None:
    assert resampling.mean([2.5] * 7) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("count", [8, resampling.MANY + 1])
def test_most_intervals_hold_the_true_mean(count: int) -> None:
    rng = np.random.default_rng(0)
    found = [resampling.mean(rng.normal(5, 2, count), seed=seed) for seed in range(100)]
    held = sum(each is not None and each.low <= 5 <= each.high for each in found)
    assert held >= 85


def test_a_factor_scales_the_whole_interval() -> None:
    assert resampling.Interval(1.0, 0.5, 2.0).times(4) == (4.0, 2.0, 8.0)


def test_a_ratio_leaves_out_pairs_with_nothing_to_divide_by() -> None:
    over, under = np.array([1.0, 5.0, 3.0]), np.array([2.0, 0.0, 4.0])
    found = resampling.ratio(over, under)
    assert found is not None
    assert found.value == pytest.approx(4 / 6)
    assert resampling.ratio(over[:2], under[:2]) is None


def test_the_ratio_of_many_pairs_has_the_interval_of_a_resampling() -> None:
    rng = np.random.default_rng(0)
    under = rng.uniform(50, 150, resampling.MANY + 1)
    over = under * rng.uniform(0, 0.4, len(under))
    many = resampling.ratio(over, under)
    rows = rng.integers(len(over), size=(resampling.DRAWS, len(over)))
    low, high = np.percentile(over[rows].sum(axis=1) / under[rows].sum(axis=1), [2.5, 97.5])
    assert many is not None
    assert many.low == pytest.approx(low, abs=0.003)
    assert many.high == pytest.approx(high, abs=0.003)
