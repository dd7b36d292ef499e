from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition
from model.expected_minutes import LEAST, Expectation, Floats, expect, summary
from model.minutes import Work

SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=20)


def scans(rng: np.random.Generator, count: int) -> Floats:
    """Return what a model saw in made-up scans, shape (count, 3)."""
    regions = rng.integers(0, 6, count).astype(float)
    return np.column_stack([rng.random(count), rng.random(count) / 2, regions])


def work(minutes: Floats, annotator: Any = 1) -> Work:
    count = len(minutes)
    return Work(minutes, np.broadcast_to(annotator, count), np.zeros(count, bool), np.zeros(count))


def fitted(known: Floats, minutes: Floats, wanted: Floats, annotator: Any = 1) -> Expectation:
    return expect(known, work(minutes, annotator), np.arange(len(known)), wanted)


def taken(known: Floats) -> Floats:
    """Return minutes that follow from the regions: half a minute, and one for each."""
    minutes: Floats = 0.5 + known[:, 2]
    return minutes


# -- the expectation ------------------------------------------------------------------------------


@FEW
@given(SEEDS)
def test_times_that_follow_from_what_the_model_saw_are_predicted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, wanted = scans(rng, 40), scans(rng, 30)
    found = fitted(known, taken(known) * np.exp(rng.normal(0, 0.1, 40)), wanted)
    assert found.r2 is not None
    assert found.r2 > 0.5
    assert found.minutes is not None
    assert np.corrcoef(np.log(found.minutes), np.log(taken(wanted)))[0, 1] > 0.8


def test_times_that_follow_from_nothing_that_is_known_seldom_count() -> None:
    rng = np.random.default_rng(0)
    trials = [
        fitted(scans(rng, 30), np.exp(rng.normal(0, 1, 30)), scans(rng, 5)) for _ in range(40)
    ]
    assert np.mean([one.minutes is None for one in trials]) > 0.7
    assert all((one.minutes is None) == (one.r2 is None or one.r2 <= 0) for one in trials)


@FEW
@given(st.integers(0, LEAST - 1), SEEDS)
def test_with_few_labels_nothing_is_expected(count: int, seed: int) -> None:
    known = scans(np.random.default_rng(seed), count)
    assert fitted(known, taken(known), known) == Expectation(count)


def test_slices_of_few_patients_are_too_few_however_many_they_are() -> None:
    known = scans(np.random.default_rng(0), 40)
    few = expect(known, work(taken(known)), np.arange(40) % 4, known)
    assert few == Expectation(40)


def test_labels_that_all_took_alike_tell_nothing() -> None:
    known = scans(np.random.default_rng(0), 30)
    assert fitted(known, np.full(30, 2.0), known).minutes is None


@FEW
@given(SEEDS, st.floats(0.1, 10))
def test_a_slower_annotator_does_not_make_the_annotators_scans_slow(
    seed: int, factor: float
) -> None:
    rng = np.random.default_rng(seed)
    known, wanted = scans(rng, 40), scans(rng, 10)
    minutes, second = taken(known), np.arange(40) % 2 == 1
    alike = fitted(known, minutes, wanted, annotator=second.astype(int)).minutes
    slower = np.where(second, factor, 1.0) * minutes
    unequal = fitted(known, slower, wanted, annotator=second.astype(int)).minutes
    assert alike is not None
    assert unequal is not None
    np.testing.assert_allclose(unequal / alike, np.sqrt(factor), rtol=1e-6)


@FEW
@given(SEEDS)
def test_expected_minutes_stay_between_the_shortest_and_the_longest_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = scans(rng, 40)
    minutes = taken(known)
    found = fitted(known, minutes, 100 * scans(rng, 20)).minutes
    assert found is not None
    assert (found >= minutes.min() * (1 - 1e-9)).all()
    assert (found <= minutes.max() * (1 + 1e-9)).all()


# -- what the model saw ---------------------------------------------------------------------------


def test_area_and_regions_are_those_of_all_classes() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4] = True
    masks[1, :2, :2] = masks[1, 6:, 6:] = True
    assert summary(0.5, [masks]) == (0.5, (32 + 4) / 64, 3)


def test_a_large_scan_has_as_many_regions_as_a_small_copy() -> None:
    small = np.zeros((1, 8, 8), bool)
    small[0, 1:3, 1:3] = small[0, 5:7, 5:7] = True
    large = small.repeat(64, axis=1).repeat(64, axis=2)
    assert summary(0.0, [large]) == summary(0.0, [small])


# -- the order ------------------------------------------------------------------------------------

RULES = pytest.mark.parametrize("rule", acquisition.STRATEGIES)


def pool(seed: int, count: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labelled = np.zeros(count, bool)
    labelled[:2] = True
    return {
        "uncertainty": rng.random(count) + 0.1,
        "coordinates": rng.random((count, 2)),
        "labelled": labelled,
        "batch": 3,
    }


@RULES
@FEW
@given(SEEDS, st.sampled_from([0.5, 1.0, 4.0]))
def test_equal_minutes_change_no_order(rule: str, seed: int, minutes: float) -> None:
    known = pool(seed)
    plain = acquisition.rank(**known, strategy=rule)
    timed = acquisition.rank(**known, strategy=rule, minutes=np.full(12, minutes))
    assert timed.order.tolist() == plain.order.tolist()
    np.testing.assert_array_equal(timed.utility, plain.utility)


@RULES
@FEW
@given(SEEDS, st.integers(2, 11), st.floats(1.0, 1e6))
def test_a_scan_that_takes_longer_is_never_asked_earlier(
    rule: str, seed: int, row: int, factor: float
) -> None:
    known = pool(seed) | {"batch": 1}
    minutes = np.ones(12)
    before = acquisition.rank(**known, strategy=rule, minutes=minutes).order[0]
    minutes[row] = factor
    after = acquisition.rank(**known, strategy=rule, minutes=minutes).order[0]
    assert after == before or before == row, "only its own place may fall"


@RULES
def test_of_two_equal_scans_the_quicker_comes_first_unless_chance_decides(rule: str) -> None:
    known = pool(0) | {"batch": None}
    known["uncertainty"][10:] = 2.0
    known["coordinates"][10] = known["coordinates"][11]
    minutes = np.ones(12)
    minutes[10] = 50.0
    order = acquisition.rank(**known, strategy=rule, minutes=minutes).order.tolist()
    plain = acquisition.rank(**known, strategy=rule).order.tolist()
    if rule == "random":
        assert order == plain
    else:
        assert order.index(11) < order.index(10)


def test_random_picks_of_the_control_arm_ignore_minutes() -> None:
    known = pool(0) | {"random_fraction": 1.0}
    minutes = np.linspace(1, 100, 12)
    timed = acquisition.rank(**known, minutes=minutes).order[:3]
    assert timed.tolist() == acquisition.rank(**known).order[:3].tolist()


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_minutes_that_are_no_times_are_refused(wrong: float) -> None:
    minutes = np.ones(12)
    minutes[5] = wrong
    with pytest.raises(ValueError, match="not above 0"):
        acquisition.rank(**pool(0), minutes=minutes)
    with pytest.raises(ValueError, match="a value per scan"):
        acquisition.rank(**pool(0), minutes=np.ones(5))
    minutes[:] = wrong
    minutes[2:] = 1.0
    acquisition.rank(**pool(0), minutes=minutes)  # labelled rows are not read
