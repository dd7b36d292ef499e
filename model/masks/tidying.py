"""Masks tidied before a person sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

SPECK = 0.01  # of a class's area: what is smaller is removed, or filled


def tidied(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities whose masks (above 0.5) have no specks and no pinholes.

    Of each class, a patch of foreground below 1 % of the class's area in this scan becomes 0, and a
    patch of background below that which the foreground encloses becomes 1. Patches touch by their
    edges or corners, gaps by their edges alone.

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
    small[0] = False  # what is not in the mask
    found: Mask = small[numbers]
    return found
