"""Merge several annotations of one scan, by the majority at each pixel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


def merge(annotations: Iterable[Mask]) -> Mask:
    """Return the pixels that more than half of the (c, h, w) masks cover; a tie is background.

    Given an iterator, this holds one mask at a time.
    """
    shapes, number = set(), 0
    votes: NDArray[np.uint16] = np.zeros((1, 1, 1), np.uint16)
    for mask in annotations:
        shapes.add(mask.shape)
        if len(shapes) == 1:
            number, votes = number + 1, votes + mask
    if len(shapes) != 1:
        raise ValueError(f"expected one or more masks of one shape, got {sorted(shapes)}")
    agreed: Mask = 2 * votes > number
    return agreed
