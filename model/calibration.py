"""Measure the calibration of probabilities, and correct it with a temperature.

Ranking by entropy is only as good as the calibration. Source: Guo et al. 2017, "On Calibration of
Modern Neural Networks" (arXiv 1706.04599): expected calibration error and temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

Array = npt.NDArray[Any]

BINS = 15
EXTREME = 1e-6  # probabilities are clipped to stay so far from 0 and 1
COLDEST, HOTTEST = 0.1, 10.0


def expected_calibration_error(probabilities: Array, truth: Array) -> float:
    """Return the mean gap between probability and frequency, over 15 equal bins, in [0, 1].

    Args:
        probabilities: Of the foreground, any shape.
        truth: Bool, the same shape.

    Raises:
        ValueError: If the shapes differ, the arrays are empty, or a value lies outside [0, 1].
    """
    probabilities, hits = _checked(probabilities, truth)
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, probabilities - hits, minlength=BINS)
    return float(np.abs(gaps).sum() / len(probabilities))


def temperature(probabilities: Array, truth: Array) -> float:
    """Return the temperature, from 0.1 to 10, that makes the truth most likely.

    1 changes nothing. Above 1 the network was overconfident, below 1 underconfident.

    Args:
        probabilities, truth: As in `expected_calibration_error`, of scans held out from training.

    Raises:
        ValueError: As in `expected_calibration_error`.
    """
    probabilities, hits = _checked(probabilities, truth)
    signed = np.where(hits, 1, -1) * _logit(probabilities)

    def cross_entropy(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def tempered(probabilities: Array, temperature: float) -> Array:
    """Return the probabilities at another temperature, with the same shape and type."""
    if temperature == 1:
        return probabilities
    return np.asarray(expit(_logit(probabilities) / temperature), probabilities.dtype)


def pixels(scans: Sequence[Array]) -> Array:
    """Return the values of arrays of any shapes as one vector."""
    return np.concatenate([scan.ravel() for scan in scans]) if scans else np.empty(0)


def _logit(probabilities: Array) -> Array:
    return np.asarray(logit(np.clip(probabilities, EXTREME, 1 - EXTREME).astype(np.float64)))


def _checked(probabilities: Array, truth: Array) -> tuple[Array, Array]:
    if probabilities.shape != truth.shape or truth.dtype != np.bool_ or not truth.size:
        raise ValueError(
            f"probabilities of shape {probabilities.shape} and truth of shape {truth.shape} and "
            f"type {truth.dtype}: expected the same shape, at least one value, and bool"
        )
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("probabilities must lie in [0, 1]; apply the sigmoid to logits first")
    return probabilities.ravel().astype(np.float64), truth.ravel()
