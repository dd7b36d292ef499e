"""The encoders without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import encoders
from model.encoders.descriptions import BINS, SCALES, SIDE, STATISTICS

NAMES = ("pixels", "normalised-pixels", "statistics")
GRADIENTS = slice(BINS, BINS + 4 * len(SCALES))
SPECTRUM = slice(BINS + 4 * len(SCALES), STATISTICS)

Floats = NDArray[np.float32]

seeds = st.integers(0, 1000)
sides = st.integers(1, 90)


def scan(seed: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> Floats:
    """Return a scan with shapes and noise, with values from 0.2 to 0.8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    waves = sum(np.sin(6 * (a * x + b * y + c)) for a, b, c in rng.normal(size=(3, 3)))
    noise = rng.normal(size=shape)
    values = np.asarray(waves).reshape(shape[:2] + (1,) * (len(shape) - 2)) + 0.3 * noise
    span = np.ptp(values) or 1.0
    return np.asarray(0.2 + 0.6 * (values - values.min()) / span, np.float32)


def encode(name: str, *images: Any) -> Floats:
    return encoders.load(name).encode(images)


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, height=sides, width=sides, colour=st.booleans())
def test_vectors_are_finite_repeatable_and_of_one_length(
    name: str, seed: int, height: int, width: int, colour: bool
) -> None:
    image = scan(seed, (height, width, 3) if colour else (height, width))
    found = encode(name, image, image)
    assert found.shape == (2, encoders.load(name).dim)
    assert np.isfinite(found).all()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found, encode(name, image, image))


@pytest.mark.parametrize("name", NAMES)
@given(value=st.floats(0, 1, width=32))
def test_a_scan_of_one_grey_value_has_a_finite_vector(name: str, value: float) -> None:
    assert np.isfinite(encode(name, np.full((9, 7), value, np.float32))).all()


@given(seed=seeds, gain=st.floats(0.2, 1), share=st.floats(0, 1))
def test_normalised_pixels_see_neither_brightness_nor_contrast(
    seed: int, gain: float, share: float
) -> None:
    image = scan(seed)
    other = (gain * image + share * (1 - gain)).astype(np.float32)
    found = encode("normalised-pixels", image, other)
    np.testing.assert_allclose(found[0], found[1], atol=0.01)
    assert found[0].mean() == pytest.approx(0, abs=1e-4)
    assert found[0].std() == pytest.approx(1, abs=1e-4)


@given(seed=seeds)
def test_normalised_pixels_of_a_negative_are_its_opposite(seed: int) -> None:
    image = scan(seed)
    found = encode("normalised-pixels", image, 1 - image)
    np.testing.assert_allclose(found[0], -found[1], atol=0.01)


def test_noise_below_a_grey_level_is_no_layout() -> None:
    noise = np.random.default_rng(0).random((16, 16), np.float32) / 300
    assert not encode("normalised-pixels", noise).any()


@given(seed=seeds)
def test_statistics_see_that_a_scan_is_a_negative(seed: int) -> None:
    image = (np.floor(scan(seed) * 255) + 0.5) / 256  # between the limits of the bins
    one, two = encode("statistics", image.astype(np.float32), (1 - image).astype(np.float32))
    np.testing.assert_allclose(one[:BINS], two[:BINS][::-1], atol=1e-6)
    assert np.abs(one[:BINS] - two[:BINS]).sum() > 0.01
    np.testing.assert_allclose(one[BINS:], two[BINS:], atol=1e-3)


@given(seed=seeds)
def test_the_histogram_is_made_of_shares(seed: int) -> None:
    assert encode("statistics", scan(seed))[0, :BINS].sum() == pytest.approx(1)


@given(seed=seeds)
def test_a_scan_on_its_side_swaps_the_directions_of_its_gradients(seed: int) -> None:
    image = scan(seed)
    upright, aside = encode("statistics", image, image.T)[:, GRADIENTS].reshape(2, -1, 4)
    np.testing.assert_allclose(upright[:, [1, 0, 2, 3]], aside, atol=1e-6)


@pytest.mark.parametrize("periods", [1, 3, 7])
def test_the_spectrum_shows_how_many_stripes_there_are(periods: int) -> None:
    across = np.sin(2 * np.pi * periods * np.arange(SIDE) / SIDE)
    image = np.tile(0.5 + 0.4 * across, (SIDE, 1)).astype(np.float32)
    spectrum = encode("statistics", image)[0, SPECTRUM].reshape(15, 8)
    assert divmod(int(spectrum.argmax()), 8) == (0, periods)


def test_colour_is_described_by_its_grey_values() -> None:
    image = scan(0, (40, 50, 3))
    grey = image.mean(axis=2)
    for name in NAMES:
        colour, plain = encode(name, image, grey)
        np.testing.assert_allclose(colour, plain, atol=0.02)
