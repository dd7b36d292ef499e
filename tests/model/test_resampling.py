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
