from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from backend.experiments import intervals


def test_an_interval_is_students() -> None:
    values = [0.9, 0.8, 0.85, 0.95]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert intervals.interval(values) == pytest.approx((0.875, expected.low, expected.high))


def test_one_run_has_no_interval() -> None:
    assert intervals.interval([0.5]) == pytest.approx((0.5, np.nan, np.nan), nan_ok=True)


@pytest.mark.parametrize("value", [0.0, 0.9])
def test_equal_values_have_an_interval_without_width(value: float) -> None:
    assert intervals.interval([value] * 9) == pytest.approx((value, value, value))


def test_equal_seeds_are_paired() -> None:
    ours, theirs = {0: 0.9, 1: 0.7, 2: 0.8}, {2: 0.75, 0: 0.8, 1: 0.68}
    expected = stats.ttest_rel([0.9, 0.7, 0.8], [0.8, 0.68, 0.75]).confidence_interval()
    found, made = intervals.difference(ours, theirs)
    assert found[1:] == pytest.approx((expected.low, expected.high))
    assert made == "paired, n = 3"


def test_unequal_seeds_are_compared_by_welch() -> None:
    ours, theirs = {0: 0.9, 1: 0.7}, {0: 0.8, 1: 0.68, 2: 0.75, 3: 0.5}
    test = stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False)
    expected = test.confidence_interval()
    found, made = intervals.difference(ours, theirs)
    assert found[1:] == pytest.approx((expected.low, expected.high))
    assert made == "Welch, n = 2 and 4"


def test_welch_needs_spread_on_one_side_only() -> None:
    found, _ = intervals.difference({0: 0.5, 1: 0.5}, {0: 0.4, 1: 0.5, 2: 0.3})
    half = stats.t.ppf(0.975, 2) * stats.sem([0.4, 0.5, 0.3])
    assert found == pytest.approx((0.1, 0.1 - half, 0.1 + half))


@pytest.mark.parametrize(
    ("ours", "low"), [({0: 0.5, 1: 0.5}, 0.1), ({0: 0.5}, np.nan)], ids=["no spread", "one run"]
)
def test_welch_without_spread_has_no_width_and_of_one_run_no_interval(
    ours: dict[int, float], low: float
) -> None:
    found, _ = intervals.difference(ours, {0: 0.4, 1: 0.4, 2: 0.4})
    assert found == pytest.approx((0.1, low, low), nan_ok=True)


def test_seeds_that_only_one_side_has_are_no_pairs() -> None:
    assert intervals.paired({0: 0.5, 1: 0.7, 9: 0.1}, {1: 0.5, 0: 0.4}) == pytest.approx([0.1, 0.2])


def test_every_pool_has_the_same_weight() -> None:
    middle, low, high = intervals.over_pools([[0.1] * 20, [0.3], []])
    assert middle == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.1, 0.3))  # either pool may be drawn twice


def test_an_interval_over_pools_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for trial in range(60):
        chance = np.random.default_rng(trial)
        truth = chance.normal(0, 1, 12)  # the effect in each pool; over pools it is 0
        _, low, high = intervals.over_pools([chance.normal(of, 1, 4).tolist() for of in truth])
        held += low < 0 < high
    assert held >= 50


def test_one_value_over_pools_has_no_interval() -> None:
    assert intervals.over_pools([[0.2]])[0] == 0.2
    assert np.isnan(intervals.over_pools([[0.2]])[1:]).all()
    assert np.isnan(intervals.over_pools([])).all()


def test_the_gap_closed_is_the_share_of_what_all_labels_gain() -> None:
    lower, upper = {0: 0.6, 1: 0.7}, {0: 0.8, 1: 0.9}
    half = {0: 0.7, 1: 0.8}
    assert intervals.gap_closed(half, lower, upper) == pytest.approx((0.5, 0.5, 0.5))
    assert intervals.gap_closed(lower, lower, upper)[0] == pytest.approx(0)
    assert intervals.gap_closed(upper, lower, upper)[0] == pytest.approx(1)
    assert np.isnan(intervals.gap_closed(half, upper, lower)).all()  # all labels gain nothing
    assert np.isnan(intervals.gap_closed(half, {5: 0.1}, upper)).all()
