"""The uncertainty of a network about a scan, computed from its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.special import entr

Probabilities = NDArray[np.float32]


def entropy(probabilities: Probabilities) -> NDArray[np.float64]:
    """Return the network's uncertainty about each scan, from 0 (certain) to 1, shape (n,).

    It is the binary entropy of each class divided by ln 2, averaged over classes and pixels.

    Args:
        probabilities: Of independent classes, shape (n, c, h, w), without padding.

    Raises:
        ValueError: If the array does not have four axes, or a value lies outside [0, 1].
    """
    means: NDArray[np.float64] = _bits(probabilities).mean(axis=(1, 2, 3), dtype=np.float64)
    return np.minimum(means, 1.0)  # float32 rounding near 0.5


def boundary_entropy(probabilities: Probabilities, band: float = 5) -> NDArray[np.float64]:
    """Return the network's uncertainty along its predicted outlines, 0 to 1, shape (n,).

    Entropy as in `entropy`, but averaged over the pixels within `band` of the outline of the
    predicted mask (p > 0.5), class by class; over all pixels if a class has no outline. Certain
    background, which is most of a scan, then cannot hide an uncertain border (Ma et al. 2024,
    "Breaking the Barrier: Selective Uncertainty-based Active Learning for Medical Image
    Segmentation", arXiv 2401.16298).

    Args:
        probabilities: Of independent classes, shape (n, c, h, w), without padding.
        band: Largest distance from a pixel's centre to the nearest pixel's centre on the other side
            of the outline, in pixels, at least 1.

    Raises:
        ValueError: If the shape or a value is not as described.
    """
    if not band >= 1:
        raise ValueError(f"band is {band}: expected at least 1 pixel")
    bits = _bits(probabilities)
    means = [
        [_mean_near_outline(plane, mask, band) for plane, mask in zip(*scan, strict=True)]
        for scan in zip(bits, probabilities > 0.5, strict=True)
    ]
    flat = np.array(means, np.float64).reshape(probabilities.shape[:2])
    found: NDArray[np.float64] = np.minimum(flat.mean(axis=1), 1.0)
    return found


def of_pages(uncertainties: Sequence[float]) -> float:
    """Return the uncertainty of a slab: the mean of its most uncertain third of pages.

    The mean of all pages would hide a structure that shows on few of them, and the largest alone
    would follow a single odd page. A scan of one page keeps its own.

    Args:
        uncertainties: Of each page, at least one.

    Raises:
        ValueError: If there is no page.
    """
    if not len(uncertainties):
        raise ValueError("there is no page: expected the uncertainty of at least one")
    third = -(-len(uncertainties) // 3)
    return float(np.mean(sorted(uncertainties)[-third:]))


UNCERTAINTIES = {"entropy": entropy, "boundary-entropy": boundary_entropy}


def _bits(probabilities: Probabilities) -> NDArray[np.floating[Any]]:
    if probabilities.ndim != 4:
        raise ValueError(
            f"probabilities of shape {probabilities.shape}: expected (n, classes, height, width); "
            "add an axis to the probabilities of a single scan"
        )
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("probabilities must lie in [0, 1]; apply the sigmoid to logits first")
    bits: NDArray[np.floating[Any]] = (entr(probabilities) + entr(1 - probabilities)) / np.log(2)
    return bits


def _mean_near_outline(
    bits: NDArray[np.floating[Any]], mask: NDArray[np.bool_], band: float
) -> float:
    if mask.all() or not mask.any():
        return float(bits.mean(dtype=np.float64))
    across = np.where(mask, distance_transform_edt(mask), distance_transform_edt(~mask))
    return float(bits[across <= band].mean(dtype=np.float64))
