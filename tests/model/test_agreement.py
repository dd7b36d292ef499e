from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import agreement, evaluation
from model.agreement import Comparison
from model.evaluation import METRICS

DICE, HD95 = METRICS["dice"], METRICS["hd95"]
NAN = float("nan")


def compared(task: int, one: int, other: int, *dice: float) -> Comparison:
    return Comparison(task, (one, other), {"dice": dice, "hd95": [10 * (1 - of) for of in dice]})


COMPARISONS = st.lists(
    st.builds(
        compared,
        st.integers(1, 6),
        st.integers(1, 3),
        st.integers(4, 6),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=20,
)


def test_masks_of_a_known_overlap_have_the_known_scores() -> None:
    one, other = np.zeros((2, 1, 8, 10), bool)
    one[0, :, 0:4], other[0, :, 2:6] = True, True  # two of four columns in common
    scores = evaluation.of_labels(one, other, (1.0, 1.0))
    pair = Comparison(7, (1, 2), scores)
    assert pair.score(DICE) == pytest.approx(0.5)
    assert pair.score(HD95) == pytest.approx(2.0)


def test_a_class_that_neither_drew_does_not_count() -> None:
    pair = compared(1, 1, 2, 0.4, NAN)
    assert pair.score(DICE) == pytest.approx(0.4)
    assert agreement.by_class([pair])[0] == pytest.approx(0.4)
    assert np.isnan(agreement.by_class([pair])[1])
    assert compared(1, 1, 2, NAN, NAN).score(DICE) == 1.0, "both drew nothing"


def test_a_scan_counts_once_however_many_drew_it() -> None:
    three = [compared(1, 1, 2, 0.2), compared(1, 1, 3, 0.4), compared(1, 2, 3, 0.6)]
    assert agreement.by_scan([*three, compared(2, 1, 2, 1.0)]) == pytest.approx({1: 0.4, 2: 1.0})
    found = agreement.overall([*three, compared(2, 1, 2, 1.0)])
    assert found is not None
    assert found.value == pytest.approx(0.7)


def test_one_scan_gives_no_interval() -> None:
    assert agreement.overall([compared(1, 1, 2, 0.5)]) is None


def test_the_matrix_averages_the_scans_that_two_annotators_share() -> None:
    found = agreement.matrix(
        [compared(1, 1, 5, 0.2), compared(2, 5, 1, 0.6), compared(2, 1, 8, 1.0)], DICE
    )
    assert found.annotators == [1, 5, 8]
    assert found.scores[0, 1] == found.scores[1, 0] == pytest.approx(0.4)
    assert found.scans.tolist() == [[0, 2, 1], [2, 0, 0], [1, 0, 0]]
    assert np.isnan(found.scores[1, 2])
    assert np.isnan(np.diag(found.scores)).all()


@given(COMPARISONS)
def test_the_matrix_is_symmetric_and_lies_between_its_scores(found: list[Comparison]) -> None:
    matrix = agreement.matrix(found, DICE)
    np.testing.assert_array_equal(matrix.scores, matrix.scores.T)
    scores = [each.score(DICE) for each in found]
    known = matrix.scores[~np.isnan(matrix.scores)]
    assert known.min() >= min(scores) - 1e-9
    assert known.max() <= max(scores) + 1e-9


@given(COMPARISONS)
def test_the_scans_with_least_agreement_come_worst_first(found: list[Comparison]) -> None:
    scores = agreement.by_scan(found)
    listed = agreement.least(found, 3)
    assert len(listed) == min(3, len(scores))
    assert [scores[task] for task in listed] == sorted(scores.values())[:3]


# -- second readings ------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 1) | st.just(NAN), max_size=12),
    st.integers(0, 40),
    st.integers(0, 10),
    st.floats(0, 1),
)
def test_second_readings_are_asked_once_and_never_beyond_their_share(
    uncertainty: list[float], labelled: int, asked: int, share: float
) -> None:
    scans = labelled + len(uncertainty)
    chosen = agreement.second_readings(np.array(uncertainty), scans=scans, asked=asked, share=share)
    assert len(set(chosen)) == len(chosen) <= len(uncertainty)
    assert set(chosen) <= set(range(len(uncertainty)))
    assert not chosen or asked + len(chosen) <= share * scans + 1e-6


def test_the_most_uncertain_and_random_scans_take_turns() -> None:
    uncertainty = np.array([0.1, NAN, 0.9, 0.5, 0.3, 0.2])
    draws = [
        agreement.second_readings(uncertainty, scans=6, asked=0, share=0.5, seed=seed)
        for seed in range(80)
    ]
    assert {first for first, _, _ in draws} == {2}
    assert {second for _, second, _ in draws} == {0, 1, 3, 4, 5}
    assert all(third == 3 for _, second, third in draws if second != 3)
    [after] = agreement.second_readings(uncertainty, scans=4, asked=1, share=0.5, seed=1)
    assert agreement.second_readings(uncertainty, scans=4, asked=1, share=0.5, seed=1) == [after]
