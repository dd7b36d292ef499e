"""Encoders without a network: what follows from the grey values alone.

Each function maps RGB images in [0, 1], shape (n, 3, size, size), to vectors (n, dim).
"""

from __future__ import annotations

import numpy as np

from model.encoders.encoder import Floats

LEVEL = 1 / 255  # a grey level of 8 bits: a scan that varies less than this shows nothing

SIDE = 64  # of the images that `statistics` takes
BINS = 16
SCALES = (1, 2, 4)  # pixels that are averaged in each direction before gradients are taken
LOWEST = 8  # periods per side, up to which `statistics` holds the power spectrum
LEAST_POWER = 1e-4  # added before the logarithm; the noise of 8-bit images lies below it
_FREQUENCIES = LOWEST * (2 * LOWEST - 1)
STATISTICS = BINS + 4 * len(SCALES) + _FREQUENCIES
# The groups of statistics have different units; with these weights none of them decides alone.
_GRADIENTS, _SPECTRUM = 2.0, 1 / 24


def grey_values(pictures: Floats) -> Floats:
    """Return the grey values of small images: layout and brightness."""
    return _grey(pictures).reshape(len(pictures), -1)


def normalised_grey_values(pictures: Floats) -> Floats:
    """Return grey values with mean 0 and deviation 1: the layout without brightness and contrast.

    Images of one grey value give zeros.
    """
    values = grey_values(pictures)
    values -= values.mean(axis=1, keepdims=True)
    deviation = values.std(axis=1, keepdims=True)
    normalised: Floats = np.zeros_like(values)
    np.divide(values, deviation, out=normalised, where=deviation > LEVEL)
    return normalised


def statistics(pictures: Floats) -> Floats:
    """Return statistics of grey values, which tell machines, protocols and stains apart.

    These are, side by side: the shares of 16 bins of grey values; the mean absolute gradient in
    four directions at three scales; and the logarithm of the power at the 120 lowest frequencies,
    of the image under a Hann window.
    """
    grey = _grey(pictures)
    groups = (_histogram(grey), _GRADIENTS * _gradients(grey), _SPECTRUM * _spectrum(grey))
    vectors: Floats = np.concatenate(groups, axis=1, dtype=np.float32)
    return vectors


def _grey(pictures: Floats) -> Floats:
    grey: Floats = pictures.mean(axis=1)
    return grey


def _histogram(grey: Floats) -> Floats:
    """Return each bin's share of the pixels, shape (n, BINS)."""
    n = len(grey)
    bins = np.minimum((grey.reshape(n, -1) * BINS).astype(int), BINS - 1)
    counts = np.bincount((bins + BINS * np.arange(n)[:, None]).ravel(), minlength=n * BINS)
    shares: Floats = counts.reshape(n, BINS) / bins.shape[1]
    return shares


def _gradients(grey: Floats) -> Floats:
    """Return the mean absolute differences of neighbours, shape (n, 4 * scales)."""
    means = []
    for scale in SCALES:
        side = SIDE // scale
        small = grey.reshape(-1, side, scale, side, scale).mean(axis=(2, 4))
        means += [
            np.abs(ahead - behind).mean(axis=(1, 2))
            for ahead, behind in (
                (small[:, 1:], small[:, :-1]),
                (small[:, :, 1:], small[:, :, :-1]),
                (small[:, 1:, 1:], small[:, :-1, :-1]),
                (small[:, 1:, :-1], small[:, :-1, 1:]),
            )
        ]
    return np.stack(means, axis=1)


def _spectrum(grey: Floats) -> Floats:
    """Return log10 of the power at frequencies below LOWEST periods per side, shape (n, 120)."""
    window = np.hanning(SIDE).astype(np.float32)
    waves = (grey - grey.mean(axis=(1, 2), keepdims=True)) * window[:, None] * window
    amplitudes = np.fft.rfft2(waves)[:, :, :LOWEST] / SIDE
    # Negative frequencies down the image are the last rows; across it they are mirror images.
    low = np.concatenate([amplitudes[:, :LOWEST], amplitudes[:, 1 - LOWEST :]], axis=1)
    power: Floats = np.abs(low.reshape(len(grey), -1)) ** 2
    logarithms: Floats = np.log10(power + LEAST_POWER)
    return logarithms
