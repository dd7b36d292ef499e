"""Merge several annotations of one scan, by the majority at each pixel or by STAPLE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from model import consensus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


Merge = Literal["majority", "staple"]


def merge(annotations: Iterable[Mask], how: Merge = "majority") -> Mask:
    """Return the mask, shape (c, h, w), on which several annotations agree.

    Args:
        annotations: Their masks, shape (c, h, w). By majority, one is in memory at a time.
        how: "majority": the pixels that more than half of the masks cover; a tie is background.
            "staple": see `model.consensus.staple`.

    Raises:
        ValueError: If there is no mask, or if their shapes differ.
    """
    return consensus.staple(list(annotations)) if how == "staple" else _majority(annotations)


def _majority(annotations: Iterable[Mask]) -> Mask:
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
