from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backend.errors import ImageError
from backend.imaging.pixels import Rows, check_size, scaled, shrink, shrunk, stretched

QUICK = settings(max_examples=150)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 80), st.booleans())
@QUICK
def test_shrinking_keeps_the_aspect_and_the_range_and_never_enlarges(
    height: int, width: int, longest: int, colour: bool
) -> None:
    shape = (height, width, 3) if colour else (height, width)
    image = np.random.default_rng(height).random(shape, dtype=np.float32).round()
    small = shrink(image, longest)
    assert small.dtype == np.float32
    assert small.ndim == image.ndim
    assert max(small.shape[:2]) == min(longest, max(height, width))
    assert (
        abs(min(small.shape[:2]) - min(height, width) * min(1, longest / max(height, width))) <= 1
    )
    assert 0 <= small.min() <= small.max() <= 1


def test_a_small_image_is_left_alone() -> None:
    image = np.ones((4, 6), dtype=np.float32)
    assert shrink(image, 6) is image


def test_shrinking_averages_where_picking_pixels_would_show_stripes() -> None:
    stripes = np.zeros((64, 64), dtype=np.float32)
    stripes[:, ::2] = 1
    np.testing.assert_allclose(shrink(stripes, 8)[:, 1:-1], 0.5, atol=0.02)


@pytest.mark.seconds
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 80), st.booleans(), st.integers(1, 900)
)
@QUICK
def test_shrinking_in_strips_is_shrinking_whole_but_for_the_last_bits_of_tall_images(
    height: int, width: int, longest: int, colour: bool, strip: int
) -> None:
    shape = (height, width, 3) if colour else (height, width)
    image = np.random.default_rng(width).random(shape, dtype=np.float32)
    seen: list[np.ndarray[Any, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.imaging.pixels.STRIP", strip)
        small = shrunk(Rows.of(image), longest, seen.append)
    allowed = 1e-6 if height >= 2 * width else 0
    np.testing.assert_allclose(small, shrink(image, longest), rtol=0, atol=allowed)
    np.testing.assert_array_equal(np.concatenate(seen), image)


def test_a_side_below_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shrink(np.ones((4, 6), dtype=np.float32), 0)


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
    ),
    st.booleans(),
)
@QUICK
def test_whatever_is_stretched_lies_between_0_and_1(
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]], inverted: bool
) -> None:
    found = stretched(Rows.of(values), inverted=inverted).whole()
    assert found.dtype == np.float32
    assert found.shape == values.shape
    assert ((found >= 0) & (found <= 1)).all()


def test_what_is_no_number_is_black_and_does_not_count() -> None:
    values = np.array([[np.nan, 2.0, 4.0, np.inf, -np.inf, 3.0]])
    np.testing.assert_allclose(stretched(Rows.of(values)).whole(), [[0, 0, 1, 0, 0, 0.5]])
    np.testing.assert_allclose(
        stretched(Rows.of(values), inverted=True).whole(), [[0, 1, 0, 0, 0, 0.5]]
    )
    assert not stretched(Rows.of(np.full((2, 2), np.nan))).whole().any()


def test_a_signalling_nan_is_black_without_a_warning() -> None:
    values = np.array([0, 0x7F810000, 0x40000000], np.uint32).view(np.float32)[np.newaxis]
    np.testing.assert_array_equal(stretched(Rows.of(values)).whole(), [[0, 0, 1]])


def test_neighbours_among_integers_of_32_bits_stay_apart() -> None:
    values = np.array([[2**30, 2**30 + 1, 2**30 + 2]], np.int32)
    np.testing.assert_allclose(stretched(Rows.of(values)).whole(), [[0, 0.5, 1]])


def test_what_lies_beyond_the_ends_takes_the_nearer_end() -> None:
    values = np.array([[-5, 0, 5, 10, 20]], np.int16)
    np.testing.assert_allclose(scaled(values, 0, 10), [[0, 0, 0.5, 1, 1]])
    np.testing.assert_allclose(scaled(values, 0, 10, inverted=True), [[1, 1, 0.5, 0, 0]])


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, -1), (11, 10), (2**40, 2**40)])
def test_no_pixels_and_too_many_are_refused(size: tuple[int, int]) -> None:
    check_size(10, 10, 100)
    with pytest.raises(ImageError, match=f"{size[0]} x {size[1]}"):
        check_size(*size, 100)
