from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from model.between import LEAST, between, reach

FEW = settings(max_examples=40)
SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=9)


def disc(radius: float, column: float = 20.0) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:41, :41]
    return np.asarray((rows - 20) ** 2 + (columns - column) ** 2 <= radius**2)[None]


@FEW
@given(data=st.data(), shape=SHAPES)
def test_the_ends_are_the_drawn_slices_and_both_directions_agree(
    data: st.DataObject, shape: tuple[int, ...]
) -> None:
    before, after = (data.draw(arrays(np.bool_, shape)) for _ in range(2))

    assert (between(before, after, 0) == before).all()
    assert (between(before, after, 1) == after).all()
    assert (between(before, after, 0.25) == between(after, before, 0.75)).all()


@FEW
@given(data=st.data(), shape=SHAPES, place=st.floats(0, 1))
def test_a_pixel_of_both_slices_is_drawn_and_a_pixel_of_neither_is_not(
    data: st.DataObject, shape: tuple[int, ...], place: float
) -> None:
    before, after = (data.draw(arrays(np.bool_, shape)) for _ in range(2))
    found = between(before, after, place)

    both = before & after
    assert found[both].all()
    neither = ~before & ~after
    assert not found[neither].any()
    assert (between(before, before, place) == before).all()


@pytest.mark.parametrize("place", [0.25, 0.5, 0.75])
def test_a_disc_grows_evenly(place: float) -> None:
    radius = 6 + place * 8

    found = between(disc(6), disc(14), place)

    assert found.sum() == pytest.approx(np.pi * radius**2, rel=0.06)


def test_a_class_of_one_slice_shrinks_and_ends_half_way() -> None:
    empty = np.zeros((1, 41, 41), bool)
    areas = [int(between(disc(10), empty, place).sum()) for place in (0, 0.2, 0.4, 0.5, 0.8)]

    assert areas == sorted(areas, reverse=True)
    assert areas[2] > 0
    assert areas[3:] == [0, 0]


def test_classes_do_not_disturb_each_other() -> None:
    before, after = np.concatenate([disc(4), disc(9)]), np.concatenate([disc(8), disc(3, 26)])

    both = between(before, after, 0.5)

    assert (both[:1] == between(before[:1], after[:1], 0.5)).all()
    assert (both[1:] == between(before[1:], after[1:], 0.5)).all()


@pytest.mark.parametrize(
    ("after", "place", "said"), [(disc(3)[:, :5], 0.5, "one shape"), (disc(3), 1.5, "from 0")]
)
def test_what_cannot_be_drawn_between_is_refused(after: Any, place: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        between(disc(3), after, place)


def test_the_reach_is_the_longest_gap_with_a_clear_gain() -> None:
    rng = np.random.default_rng(0)
    gaps = np.repeat([2.0, 5.0, 12.0], 20)
    gains = np.repeat([0.2, 0.1, -0.1], 20) + rng.normal(0, 0.05, 60)

    assert reach(gaps.tolist(), gains.tolist()) == 5.0
    assert reach(gaps[:20].tolist(), gains[:20].tolist()) == 2.0
    assert reach(gaps[40:].tolist(), gains[40:].tolist()) == 0.0


def test_few_slices_or_an_unclear_gain_give_no_reach() -> None:
    assert reach([], []) == 0.0
    assert reach([2.0] * (LEAST - 1), [0.5] * (LEAST - 1)) == 0.0
    assert reach([2.0] * 20, [0.3, -0.3] * 10) == 0.0
    assert reach([2.0] * LEAST, [0.5] * LEAST) == 2.0
