"""The pixels of a window as a graph: neighbours, and how different they look."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def smoothed(image: NDArray[np.float32]) -> Floats:
    """Return an image (h, w) or (h, w, 3) with less noise, shape (h, w, channels)."""
    channels = image if image.ndim == 3 else image[..., None]
    smooth: Floats = ndimage.gaussian_filter(channels.astype(np.float64), (1, 1, 0))
    return smooth


@lru_cache(maxsize=32)
def neighbours(height: int, width: int, diagonal: bool) -> tuple[Rows, Rows, Floats]:
    """Return both pixels of every pair of neighbours, and their distance in pixels.

    Args:
        height, width: Of the window; its pixels are numbered row by row.
        diagonal: Whether pixels that touch at a corner are neighbours too.
    """
    number = np.arange(height * width).reshape(height, width)
    pairs = [(number[:, :-1], number[:, 1:], 1.0), (number[:-1], number[1:], 1.0)]
    if diagonal:
        apart = float(np.sqrt(2))
        pairs.append((number[:-1, :-1], number[1:, 1:], apart))
        pairs.append((number[:-1, 1:], number[1:, :-1], apart))
    first = np.concatenate([one.ravel() for one, _, _ in pairs])
    second = np.concatenate([other.ravel() for _, other, _ in pairs])
    length = np.concatenate([np.full(one.size, apart) for one, _, apart in pairs])
    return first, second, length


def window_around(
    places: list[tuple[int, int]], reach: int, shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Return the rows and columns within `reach` pixels of any of the places."""
    rows, columns = zip(*places, strict=True)
    return (
        slice(max(min(rows) - reach, 0), min(max(rows) + reach + 1, shape[0])),
        slice(max(min(columns) - reach, 0), min(max(columns) + reach + 1, shape[1])),
    )
