from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import minutes
from model.minutes import LEAST, Work

TIMES = st.lists(st.floats(0.01, 600), min_size=1, max_size=40)


def work(
    plain: list[float], drafted: list[float], *, annotator: int = 1, area: float = 0.2
) -> Work:
    """Return labels without a draft, and then labels with a draft, of one annotator."""
    count = len(plain) + len(drafted)
    return Work(
        minutes=np.array([*plain, *drafted], float),
        annotator=np.full(count, annotator),
        drafted=np.arange(count) >= len(plain),
        area=np.full(count, area),
    )


def both(one: Work, other: Work) -> Work:
    names = ("minutes", "annotator", "drafted", "area")
    return Work(*(np.concatenate([getattr(one, n), getattr(other, n)]) for n in names))


# -- the cap --------------------------------------------------------------------------------------


def test_an_idle_tab_counts_as_long_as_the_cap_and_ordinary_labels_as_measured() -> None:
    taken = work([2.0, 2.2, 1.9, 2.1, 2.0, 480.0], [])
    capped = taken.capped().minutes
    np.testing.assert_array_equal(capped[:-1], taken.minutes[:-1])
    assert capped[-1] == pytest.approx(8.0, rel=0.1), "all others took about two minutes"


def test_the_cap_follows_its_formula() -> None:
    taken = work([1.0, 2.0, 4.0, 8.0, 16.0], [])
    # The median is 4, and the median deviation of the logarithms is ln 2.
    expected = np.exp(np.log(4) + 3 * 1.4826 * np.log(2))
    np.testing.assert_allclose(minutes.caps(taken), expected)


def test_fewer_labels_than_needed_have_no_cap() -> None:
    taken = work([1.0] * (LEAST - 2) + [900.0], [1.0] * (LEAST - 1))
    assert np.isinf(minutes.caps(taken)).all()


def test_each_annotator_has_a_cap_and_a_new_annotator_shares_that_of_all() -> None:
    quick, slow = work([1.0] * 6, [], annotator=1), work([30.0] * 6, [], annotator=2)
    new = work([25.0], [], annotator=3)
    limits = minutes.caps(both(both(quick, slow), new))
    assert limits[0] == pytest.approx(4.0)
    assert limits[6] == pytest.approx(120.0)
    assert limits[0] < limits[12], "the new one is not held to the quick one's cap"


def test_quick_labels_with_drafts_do_not_cap_the_slow_ones_without() -> None:
    taken = work([10.0] * LEAST, [1.0] * 100)
    np.testing.assert_array_equal(taken.capped().minutes, taken.minutes)


@given(TIMES)
def test_a_cap_never_adds_time_and_leaves_at_least_half_of_the_labels_alone(
    taken: list[float],
) -> None:
    raw = work(taken, [])
    capped = raw.capped().minutes
    assert (capped <= raw.minutes).all()
    assert np.count_nonzero(capped < raw.minutes) <= len(taken) / 2


# -- what drafts save -----------------------------------------------------------------------------


def test_with_too_few_labels_of_either_kind_it_is_too_early_to_tell() -> None:
    assert minutes.saved(work([3.0] * (LEAST - 1), [1.0] * 50)) is None
    assert minutes.saved(work([3.0] * 50, [1.0] * (LEAST - 1))) is None
    assert minutes.saved(work([], [])) is None


def test_known_times_give_the_known_minutes() -> None:
    found = minutes.saved(work([3.0] * 6, [1.0] * 8))
    assert found is not None
    assert found.per_label == (2.0, 2.0, 2.0)
    assert found.total == (16.0, 16.0, 16.0)
    assert (found.drafted, found.plain, found.strata) == (8, 6, 1)


def test_drafts_that_cost_time_have_saved_less_than_nothing() -> None:
    found = minutes.saved(work([1.0] * 6, [2.0] * 6))
    assert found is not None
    assert found.total.high < 0


def test_an_annotator_is_compared_with_nobody_else() -> None:
    slow_and_plain = work([20.0] * 9, [], annotator=1)
    quick_and_drafted = work([], [1.0] * 9, annotator=2)
    assert minutes.saved(both(slow_and_plain, quick_and_drafted)) is None


def test_easy_scans_with_drafts_are_not_compared_with_difficult_ones_without() -> None:
    """Without strata the drafts would seem to save six minutes a label; they save one."""
    easy = work([2.0] * LEAST, [1.0] * 40, area=0.1)
    difficult = work([10.0] * 40, [9.0] * LEAST, area=0.6)
    found = minutes.saved(both(easy, difficult))
    assert found is not None
    assert found.per_label.value == pytest.approx(1.0)


def test_most_intervals_hold_the_minutes_that_drafts_really_save() -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(60):
        plain, drafted = rng.lognormal(1.0, 0.4, 10), rng.lognormal(1.0, 0.4, 15) - 0.5
        found = minutes.saved(work(plain.tolist(), drafted.tolist()), seed=seed)
        assert found is not None
        held += found.per_label.low <= 0.5 <= found.per_label.high
    assert held >= 48


@given(TIMES, TIMES)
def test_a_stratum_holds_both_kinds_of_one_annotator(one: list[float], two: list[float]) -> None:
    labels = both(work(one, two), work(two, one, annotator=2, area=0.3))
    labels = Work(labels.minutes, labels.annotator, labels.drafted, labels.minutes % 1)
    numbers = minutes.strata(labels)
    for number in set(numbers.tolist()) - {-1}:
        inside = numbers == number
        assert len(set(labels.annotator[inside].tolist())) == 1
        assert np.count_nonzero(labels.drafted[inside]) >= minutes.LEAST_ALIKE
        assert np.count_nonzero(~labels.drafted[inside]) >= minutes.LEAST_ALIKE


# -- the forecast ---------------------------------------------------------------------------------


def test_the_rest_takes_as_long_for_each_scan_as_the_last_labels() -> None:
    taken = np.array([50.0] * 10 + [2.0] * minutes.RECENT)
    assert minutes.forecast(taken, 40) == (80.0, 80.0, 80.0)


def test_a_forecast_needs_some_labels() -> None:
    assert minutes.forecast(np.ones(LEAST - 1), 40) is None
