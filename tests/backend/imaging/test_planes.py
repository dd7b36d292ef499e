from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.imaging.planes import Mask, Plane
from tests.backend.imaging.shown import shown_mask

SIDES = st.integers(1, 12)


@st.composite
def planes(draw: st.DrawFn, *, longest_stretch: int = 0) -> Plane:
    """Any turn of a small slice; one side is up to `longest_stretch` pixels longer when shown."""
    grid = draw(SIDES), draw(SIDES)
    transposed = draw(st.booleans())
    shown = list(grid[::-1] if transposed else grid)
    shown[draw(st.integers(0, 1))] += draw(st.integers(0, longest_stretch))
    flips = draw(st.booleans()), draw(st.booleans())
    axis = draw(st.integers(0, 2))
    return Plane(axis, transposed, *flips, grid_shape=grid, shown_shape=(shown[0], shown[1]))


def a_mask(plane: Plane, seed: int) -> Mask:
    return np.random.default_rng(seed).random(plane.grid_shape) < 0.5


@given(planes(longest_stretch=30), st.integers(0, 99))
def test_a_mask_that_was_shown_goes_back_to_the_last_voxel(plane: Plane, seed: int) -> None:
    mask = a_mask(plane, seed)
    shown = shown_mask(plane, mask)
    assert shown.shape == plane.shown_shape
    np.testing.assert_array_equal(plane.back(shown), mask)


@given(planes(), st.integers(0, 99))
def test_what_is_drawn_where_pixels_are_square_is_kept_to_the_last_pixel(
    plane: Plane, seed: int
) -> None:
    drawn = np.random.default_rng(seed).random(plane.shown_shape) < 0.5
    np.testing.assert_array_equal(shown_mask(plane, plane.back(drawn)), drawn)


@given(planes(longest_stretch=30), st.integers(0, 99))
def test_picture_and_mask_of_a_slice_are_turned_alike(plane: Plane, seed: int) -> None:
    mask = a_mask(plane, seed)
    picture = plane.show(mask.astype(np.float32))
    assert picture.shape == plane.shown_shape
    if plane.shown_shape == plane.turned_shape:
        np.testing.assert_array_equal(picture > 0.5, shown_mask(plane, mask))
    else:
        assert np.mean((picture > 0.5) != shown_mask(plane, mask)) <= 0.5


@given(planes(longest_stretch=9))
def test_colour_is_turned_like_grey(plane: Plane) -> None:
    grey = np.random.default_rng(0).random(plane.grid_shape, np.float32)
    colour = plane.show(np.stack([grey, grey * 0, grey], axis=-1))
    np.testing.assert_array_equal(colour[..., 0], plane.show(grey))
    assert not colour[..., 1].any()


def test_a_stretched_picture_is_interpolated_between_the_centres_of_voxels() -> None:
    plane = Plane(2, False, False, False, (2, 1), (4, 1))
    np.testing.assert_allclose(plane.show(np.array([[0], [8]]))[:, 0], [0, 2, 6, 8])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_a_view_of_its_grid(axis: int) -> None:
    grid = np.zeros((3, 4, 5))
    shape = tuple(np.delete(grid.shape, axis))
    plane = Plane(axis, False, False, False, (shape[0], shape[1]), (shape[0], shape[1]))
    plane.cut(grid, 2)[:] = 1
    assert grid.take(2, axis).all()
    assert grid.sum() == shape[0] * shape[1]


def test_another_shape_is_refused() -> None:
    plane = Plane(2, True, False, False, (3, 4), (4, 3))
    with pytest.raises(ValueError, match=r"the mask has the shape \(3, 4\), expected \(4, 3\)"):
        plane.back(np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match=r"the slice has the shape \(4, 3\), expected \(3, 4\)"):
        plane.show(np.zeros((4, 3)))
