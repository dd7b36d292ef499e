from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from model.calibration import expected_calibration_error, pixels, temperature, tempered

Array = npt.NDArray[Any]


def drawn(hotness: float, n: int = 20_000) -> tuple[Array, Array]:
    """Probabilities that are too sure by a temperature, and what came true."""
    rng = np.random.default_rng(0)
    real = rng.uniform(0.05, 0.95, n)
    return expit(logit(real) * hotness), rng.random(n) < real


def test_probabilities_that_come_true_as_often_as_they_say_have_next_to_no_error() -> None:
    assert expected_calibration_error(*drawn(1)) < 0.015
    assert expected_calibration_error(*drawn(3)) > 0.1


def test_a_hand_computed_error() -> None:
    chances = np.array([[0.9, 0.9], [0.9, 0.1]])
    truth = np.array([[True, False], [False, False]])

    # Three say 0.9 and one of them is true, 0.9 - 1/3; one says 0.1 and is false.
    assert expected_calibration_error(chances, truth) == pytest.approx(
        (3 * (0.9 - 1 / 3) + 0.1) / 4
    )


def test_a_certain_and_right_network_has_no_error_and_certain_and_wrong_the_largest() -> None:
    chances = np.array([0.0, 1.0])

    assert expected_calibration_error(chances, chances > 0.5) == 0
    assert expected_calibration_error(chances, chances < 0.5) == 1


@pytest.mark.parametrize("hotness", [0.5, 1, 3])
def test_the_temperature_undoes_what_made_a_network_too_sure(hotness: float) -> None:
    chances, truth = drawn(hotness)

    found = temperature(chances, truth)

    assert found == pytest.approx(hotness, rel=0.05)
    assert expected_calibration_error(tempered(chances, found), truth) < 0.015


def test_a_temperature_stays_in_bounds_where_everything_is_right_or_wrong() -> None:
    chances = np.array([0.0, 0.2, 1.0])

    assert temperature(chances, np.array([False, False, True])) == pytest.approx(0.1, rel=0.01)
    assert temperature(chances, np.array([True, True, False])) == pytest.approx(10, rel=0.01)


@given(st.lists(st.floats(0, 1, width=32), min_size=1), st.floats(0.1, 10))
def test_a_temperature_keeps_order_sides_and_type(values: list[float], heat: float) -> None:
    chances = np.array(values, np.float32)

    found = tempered(chances, heat)

    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(chances)]) >= -1e-6).all()
    assert ((found > 0.5) <= (chances >= 0.5)).all()
    assert tempered(chances, 1) is chances


def test_scans_of_any_size_are_judged_together() -> None:
    assert pixels([np.ones((1, 2, 2)), np.zeros((1, 3, 1))]).tolist() == [1] * 4 + [0] * 3
    assert pixels([]).size == 0


@pytest.mark.parametrize(
    ("chances", "truth", "message"),
    [
        (np.zeros(2), np.zeros(3, bool), r"shape \(2,\) and truth of shape \(3,\)"),
        (np.zeros(2), np.zeros(2), "and bool"),
        (np.zeros(0), np.zeros(0, bool), "at least one value"),
        (np.array([1.5]), np.array([True]), "apply the sigmoid"),
    ],
)
def test_what_is_no_probability_of_a_truth_is_refused(
    chances: Array, truth: Array, message: str
) -> None:
    for judge in (expected_calibration_error, temperature):
        with pytest.raises(ValueError, match=message):
            judge(chances, truth)
