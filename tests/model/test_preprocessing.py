from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.preprocessing import fitting, letterbox, prepare, restore
from tests.model.scans import noise

few = settings(max_examples=40)
sides = st.integers(1, 90)


@few
@given(sides, sides, st.sampled_from([32, 64]))
def test_padding_is_undone_at_the_image_s_own_size(height: int, width: int, size: int) -> None:
    square = letterbox(torch.ones(2, height, width), size)
    rows, columns = fitting((height, width), size)

    assert square.shape == (2, size, size)
    assert max(rows, columns) == size
    assert torch.all(square[:, rows:] == 0)
    assert torch.all(square[:, :, columns:] == 0)
    torch.testing.assert_close(restore(square, (height, width)), torch.ones(2, height, width))


def test_an_image_as_large_as_the_network_comes_back_unchanged() -> None:
    planes = torch.from_numpy(noise(1, 32, 20))

    torch.testing.assert_close(restore(letterbox(planes, 32), (32, 20)), planes)


@few
@given(sides, sides, st.floats(0.1, 1.0), st.floats(0.0, 0.5))
def test_a_prepared_scan_does_not_depend_on_brightness_or_contrast(
    height: int, width: int, gain: float, offset: float
) -> None:
    image = noise(height + 1, width)

    prepared = prepare([image], 64)

    torch.testing.assert_close(
        prepare([(gain * image + offset).astype(np.float32)], 64), prepared, rtol=1e-3, atol=1e-3
    )


def test_grey_and_the_same_grey_as_colour_are_prepared_alike() -> None:
    grey = noise(20, 30)

    torch.testing.assert_close(prepare([np.stack([grey] * 3, axis=2)], 32), prepare([grey], 32))


def test_colours_are_kept() -> None:
    red, green, blue = prepare([noise(32, 32, 3)], 32)[0]

    assert not torch.equal(red, green)
    assert not torch.equal(green, blue)


def test_scans_prepared_together_are_prepared_as_each_alone() -> None:
    scans = [
        noise(20, 30),
        noise(20, 30, seed=1),
        noise(20, 30, 3),
        noise(30, 20),
        noise(20, 30, seed=2),
    ]

    alone = torch.cat([prepare([each], 32) for each in scans])

    torch.testing.assert_close(prepare(scans, 32), alone)


def test_a_scan_is_padded_with_its_own_black() -> None:
    prepared = prepare([noise(16, 32)], 32)[0]

    assert torch.all(prepared[:, 16:] == prepared[:, :16].min())


def test_a_blank_scan_is_prepared_as_zeros() -> None:
    assert torch.all(prepare([np.full((9, 9), 0.25, dtype=np.float32)], 32) == 0)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 1), (4, 4, 4), (0, 4), (1, 4, 4, 3)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        prepare([np.zeros(shape, dtype=np.float32)], 32)


def test_an_image_with_missing_values_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        prepare([np.full((4, 4), np.nan, dtype=np.float32)], 32)
