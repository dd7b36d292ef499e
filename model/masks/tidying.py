"""Tidy masks before a person sees them: remove specks and fill pinholes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

SPECK = 0.01  # share of a class's area: smaller patches are removed, smaller holes filled


def tidied(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities whose masks (above 0.5) have no specks and no pinholes.

    For each class, a patch of foreground smaller than 1 % of the class's area in this scan becomes
    0. An enclosed patch of background smaller than that becomes 1. Patches of foreground connect by
    edges or corners, patches of background by edges only.

    Args:
        probabilities: Shape (c, h, w).
    """
    return np.stack([_tidied(plane) for plane in probabilities])


def _tidied(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    mask = plane > 0.5
    least = SPECK * mask.sum()
    specks = _patches_below(least, mask, np.ones((3, 3)))
    mask &= ~specks
    gaps = ndimage.binary_fill_holes(mask) & ~mask
    pinholes = _patches_below(least, gaps, None)
    return np.where(specks, np.float32(0), np.where(pinholes, np.float32(1), plane))


def _patches_below(least: float, mask: Mask, touching: NDArray[np.float64] | None) -> Mask:
    """Return the connected patches of a mask that have fewer than `least` pixels."""
    numbers, _ = ndimage.label(mask, structure=touching)
    small = np.bincount(numbers.ravel()) < least
    small[0] = False  # 0 numbers the pixels outside of the mask
    patches: Mask = small[numbers]
    return patches
