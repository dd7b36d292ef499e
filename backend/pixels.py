"""Pixels as the science takes them: float32 in [0, 1], (h, w) if grey, else (h, w, 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import ImageError

Pixels = npt.NDArray[np.float32]


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image by the size in its header, before anything is decoded.

    Raises:
        ImageError: If it has no pixels, or more than `max_pixels`.
    """
    if width < 1 or height < 1:
        what = f"The image is damaged: its header says {width} x {height} pixels."
        raise ImageError(what, "Upload it again.")
    if width * height > max_pixels:
        raise ImageError(
            f"The image has {width} x {height} pixels, more than the {max_pixels} allowed.",
            "Shrink it, or raise MAX_IMAGE_PIXELS.",
        )


def from_bytes(values: npt.NDArray[np.uint8]) -> Pixels:
    """Return (h, w) or (h, w, 3) bytes divided by 255; equal channels become one."""
    return one_channel(np.divide(values, np.float32(255), dtype=np.float32))


def one_channel(image: Pixels) -> Pixels:
    """Return colour whose three channels are all equal as grey, anything else as it is."""
    if image.ndim == 3 and all(np.array_equal(image[..., 0], image[..., c]) for c in (1, 2)):
        return np.ascontiguousarray(image[..., 0])
    return image


def stretched(values: npt.NDArray[Any], *, inverted: bool = False) -> Pixels:
    """Return values scaled so that their lowest is 0 and their highest 1; one value alone is 0.

    What is no number, or infinite, is black and does not count.
    """
    counted = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not counted.size:
        return np.zeros(values.shape, np.float32)
    return scaled(values, float(counted.min()), float(counted.max()), inverted=inverted)


def scaled(values: npt.NDArray[Any], low: float, high: float, *, inverted: bool = False) -> Pixels:
    """Return values with `low` at 0 and `high` at 1, those beyond at the nearer end.

    Inverted, `low` is at 1. What is no number, or infinite, is black either way.
    """
    # A float32 holds every integer of 16 bits, but not those of 32.
    small = values.dtype.kind in "iub" and values.dtype.itemsize <= 2
    found: npt.NDArray[Any] = values.astype(np.float32 if small else np.float64)
    with np.errstate(all="ignore"):  # far ends of the floats may overflow; they are black
        np.subtract(found, low, out=found)
        np.divide(found, (high - low) or 1.0, out=found)
    lost = None if small else ~np.isfinite(found)
    np.clip(found, 0, 1, out=found)
    if inverted and high != low:
        np.subtract(1, found, out=found)
    if lost is not None:
        found[lost] = 0
    return found.astype(np.float32, copy=False)


def shrink(image: Pixels, longest: int) -> Pixels:
    """Return the image with no side above `longest`, averaged down; a smaller one as it is."""
    if longest < 1:
        raise ValueError(f"longest is {longest}, expected at least 1 pixel")
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR))
        for channel in np.atleast_3d(image).transpose(2, 0, 1)  # each (h, w)
    ]
    small = channels[0] if image.ndim == 2 else np.stack(channels, axis=-1)
    return np.clip(small, np.float32(0), np.float32(1))
