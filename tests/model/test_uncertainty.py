from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.uncertainty import UNCERTAINTIES, Probabilities, boundary_entropy, entropy

few = settings(max_examples=40)
chances = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(0, 1, width=32),
)


@pytest.mark.parametrize(
    ("chance", "expected"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.811278), (0.75, 0.811278)]
)
def test_entropy_of_known_probabilities(chance: float, expected: float) -> None:
    probabilities = np.full((2, 3, 4, 5), chance, dtype=np.float32)

    assert entropy(probabilities) == pytest.approx([expected, expected], abs=1e-5)


def test_entropy_is_the_mean_over_classes_and_pixels() -> None:
    probabilities = np.array([[[[0.5, 0.5]], [[0.0, 1.0]]]], dtype=np.float32)

    assert entropy(probabilities) == pytest.approx([0.5])


@few
@given(chances)
def test_entropy_is_bounded_and_blind_to_which_side_is_meant(probabilities: Probabilities) -> None:
    values = entropy(probabilities)

    assert values.shape == probabilities.shape[:1]
    assert np.all((values >= 0) & (values <= 1))
    assert values == pytest.approx(entropy(1 - probabilities), abs=1e-5)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_entropy_of_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        entropy(np.full((1, 1, 1, 1), value, dtype=np.float32))


def test_entropy_without_the_axis_of_scans_is_refused() -> None:
    with pytest.raises(ValueError, match="single scan"):
        entropy(np.zeros((2, 4, 4), dtype=np.float32))


def edge(inside: float, near: float, far: float) -> Probabilities:
    """A half plane of 40 columns, sure inside; `near` is the background beside it."""
    plane = np.full((1, 1, 40, 40), inside, np.float32)
    plane[..., 20:25] = near
    plane[..., 25:] = far
    return plane


def test_boundary_entropy_is_the_mean_within_the_band_of_the_predicted_outline() -> None:
    # Five columns inside, sure; five outside at 0.25: 0.811 bits. Nothing else is looked at.
    assert boundary_entropy(edge(1, 0.25, 0.5)) == pytest.approx([0.8113 / 2], abs=1e-3)
    assert boundary_entropy(edge(1, 0.25, 0.5), band=1) == pytest.approx([0.8113 / 2], abs=1e-3)


def test_boundary_entropy_tells_doubtful_outlines_apart_where_entropy_is_drowned() -> None:
    doubtful, sure = edge(1, 0.4, 0.0), edge(1, 0.0, 0.0)
    doubtful_far, sure_far = edge(1, 0.4, 0.1), edge(1, 0.0, 0.2)

    assert boundary_entropy(doubtful) > boundary_entropy(sure)
    assert boundary_entropy(doubtful_far) > boundary_entropy(sure_far)
    assert entropy(doubtful_far) > entropy(sure)


def test_a_class_without_an_outline_takes_all_pixels() -> None:
    nothing, everything = (np.full((1, 2, 6, 6), p, np.float32) for p in (0.25, 0.75))

    assert boundary_entropy(nothing) == pytest.approx(entropy(nothing))
    assert boundary_entropy(everything) == pytest.approx(entropy(everything))


def test_classes_count_alike_in_boundary_entropy() -> None:
    both = np.concatenate([edge(1, 0.25, 0.5), edge(1, 0.0, 0.0)], axis=1)

    assert boundary_entropy(both) == pytest.approx([0.8113 / 4], abs=1e-3)


def test_a_band_below_a_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="band is 0: expected at least 1 pixel"):
        boundary_entropy(edge(1, 0, 0), band=0)


@few
@given(chances, st.sampled_from(sorted(UNCERTAINTIES)))
def test_an_uncertainty_is_one_number_from_0_to_1_for_each_scan(
    probabilities: Probabilities, name: str
) -> None:
    values = UNCERTAINTIES[name](probabilities)

    assert values.shape == probabilities.shape[:1]
    assert ((values >= 0) & (values <= 1)).all()
