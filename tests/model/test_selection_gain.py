from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.resampling import Interval
from model.selection_gain import LEAST_HELD_OUT, LEAST_LABELS, Floats, Repeat, gain, repeats

ARMS = st.integers(0, 40)
TRIALS = 150


@given(ARMS, ARMS, st.integers(0, 99))
def test_both_arms_of_every_repeat_are_equally_large_and_hold_each_scan_once(
    chosen: int, control: int, seed: int
) -> None:
    for repeat in repeats(range(chosen), range(100, 100 + control), seed=seed):
        assert len(repeat.chosen) == len(repeat.control) == min(chosen, control) // 2
        assert len(set(repeat.chosen)) == len(repeat.chosen)
        assert len(set(repeat.control)) == len(repeat.control)


@given(ARMS, ARMS)
def test_only_the_first_chosen_and_the_first_controls_count(chosen: int, control: int) -> None:
    size = min(chosen, control)
    for repeat in repeats(range(chosen), range(control)):
        assert set(repeat.chosen) <= set(range(size))
        assert set(repeat.control) <= set(range(size))


@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 99))
def test_every_label_trains_in_half_of_the_repeats(half: int, pairs: int, seed: int) -> None:
    found = repeats(range(2 * half), range(2 * half), count=2 * pairs, seed=seed)
    for arm in ([one.chosen for one in found], [one.control for one in found]):
        counts = np.bincount(np.concatenate(arm), minlength=2 * half)
        assert (counts == pairs).all()


def test_the_same_seed_gives_the_same_repeats_and_another_one_others() -> None:
    arms = range(20), range(20, 40)
    assert repeats(*arms, seed=3) == repeats(*arms, seed=3)
    assert repeats(*arms, seed=3) != repeats(*arms, seed=4)


def study(rng: np.random.Generator, gained: float, *, training: float) -> Interval:
    """Return the interval of one made-up project with the fewest labels and held-out groups.

    A network is worth the mean of its labels' worth, which has spread 0.1 in both arms, plus noise.
    """
    worth = {True: rng.normal(gained, 0.1, LEAST_LABELS), False: rng.normal(0, 0.1, LEAST_LABELS)}
    groups = rng.normal(0, 0.03, LEAST_HELD_OUT)

    def difference(repeat: Repeat) -> Floats:
        means = worth[True][repeat.chosen].mean() - worth[False][repeat.control].mean()
        network = means + rng.normal(0, training)
        found: Floats = network + groups + rng.normal(0, 0.03, LEAST_HELD_OUT)
        return found

    halves = repeats(range(LEAST_LABELS), range(LEAST_LABELS), seed=int(rng.integers(1000)))
    return gain(np.array([difference(repeat) for repeat in halves]))


@pytest.mark.parametrize("training", [0.0, 0.05])
def test_without_a_difference_the_interval_covers_zero_about_as_often_as_it_says(
    training: float,
) -> None:
    rng = np.random.default_rng(0)
    found = [study(rng, 0.0, training=training) for _ in range(TRIALS)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert covered > 0.88, "95 %, less a little for few labels and for chance"


def test_a_clear_difference_is_found_with_its_sign() -> None:
    rng = np.random.default_rng(0)
    better = [study(rng, 0.3, training=0.02) for _ in range(TRIALS)]
    worse = [study(rng, -0.3, training=0.02) for _ in range(TRIALS)]
    assert np.mean([one.low > 0 for one in better]) > 0.9
    assert np.mean([one.high < 0 for one in worse]) > 0.9
    assert np.mean([one.value for one in better]) == pytest.approx(0.3, abs=0.02)


@given(st.integers(2, 10), st.integers(2, 30), st.integers(0, 99))
def test_the_interval_holds_the_mean_and_turns_with_the_sign(
    count: int, groups: int, seed: int
) -> None:
    differences = np.random.default_rng(seed).normal(0.01, 0.1, (count, groups))
    found, turned = gain(differences), gain(-differences)
    assert found.low <= found.value <= found.high
    assert turned.value == pytest.approx(-found.value)


def test_equal_differences_have_an_interval_without_width() -> None:
    assert gain(np.full((4, 10), 0.02)) == pytest.approx((0.02, 0.02, 0.02))
