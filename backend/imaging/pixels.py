"""Pixels as `model` takes them: float32 in [0, 1], (h, w) if grey, else (h, w, 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import ImageError

Pixels = npt.NDArray[np.float32]

STRIP = 2**20  # pixels that are processed at once


@dataclass(frozen=True)
class Rows:
    """An image that is computed a few rows at a time, so that it never lies in memory as a whole.

    Attributes:
        shape: (h, w) if grey, else (h, w, channels).
        read: Returns the rows from its first argument to below its second.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], npt.NDArray[Any]]

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Rows:
        """Return the rows of an array."""
        return cls(values.shape, lambda top, bottom: values[top:bottom])

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Yield strips of about STRIP pixels, from top to bottom."""
        height, width = self.shape[:2]
        step = max(1, STRIP // width)
        for top in range(0, height, step):
            yield self.read(top, min(top + step, height))

    def map(
        self,
        change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
        shape: tuple[int, ...] | None = None,
    ) -> Rows:
        """Return the rows after `change`, which treats each pixel on its own.

        Args:
            change: Takes some rows and returns them changed.
            shape: Of the changed image; by default unchanged.
        """
        return Rows(shape or self.shape, lambda top, bottom: change(self.read(top, bottom)))

    def whole(self) -> Pixels:
        """Return all rows as one array."""
        image = np.empty(self.shape, np.float32)
        top = 0
        for strip in self:
            image[top : top + len(strip)] = strip
            top += len(strip)
        return image


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image by the size in its header, before decoding it.

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
    """Return bytes divided by 255."""
    return np.divide(values, np.float32(255), dtype=np.float32)


def one_channel(image: Rows) -> Rows:
    """Turn colour with three equal channels into grey; return other images unchanged."""
    if len(image.shape) == 3 and all(_is_grey(strip) for strip in image):
        return image.map(lambda strip: np.ascontiguousarray(strip[..., 0]), image.shape[:2])
    return image


def _is_grey(strip: npt.NDArray[Any]) -> bool:
    return all(np.array_equal(strip[..., 0], strip[..., channel]) for channel in (1, 2))


def stretched(values: Rows, *, inverted: bool = False) -> Rows:
    """Scale values so that the lowest is 0 and the highest 1; equal values become 0.

    NaN and infinity become black and do not count.
    """
    ends = [(strip.min(), strip.max()) for strip in map(_counted, values) if strip.size]
    if not ends:
        return values.map(lambda strip: np.zeros(strip.shape, np.float32))
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    return values.map(lambda strip: scaled(strip, low, high, inverted=inverted))


def _counted(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def scaled(values: npt.NDArray[Any], low: float, high: float, *, inverted: bool = False) -> Pixels:
    """Scale values so that `low` becomes 0 and `high` 1; values beyond are clipped.

    If inverted, `low` becomes 1 and `high` 0. NaN and infinity become black in both cases.
    """
    # A float32 holds every integer of 16 bits, but not those of 32.
    small = values.dtype.kind in "iub" and values.dtype.itemsize <= 2
    # Extreme floats may overflow, and a signalling NaN cannot be cast silently; they become black.
    with np.errstate(all="ignore"):
        result: npt.NDArray[Any] = values.astype(np.float32 if small else np.float64)
        np.subtract(result, low, out=result)
        np.divide(result, (high - low) or 1.0, out=result)
    invalid = None if small else ~np.isfinite(result)
    np.clip(result, 0, 1, out=result)
    if inverted and high != low:
        np.subtract(1, result, out=result)
    if invalid is not None:
        result[invalid] = 0
    return result.astype(np.float32, copy=False)


def shrink(image: Pixels, longest: int) -> Pixels:
    """Shrink an image by averaging until no side exceeds `longest`; keep a smaller image."""
    if longest < 1:
        raise ValueError(f"longest is {longest}, expected at least 1 pixel")
    size = _size(image.shape, longest)
    if size == (image.shape[1], image.shape[0]):
        return image
    return np.clip(_resized(image, size), np.float32(0), np.float32(1))


def shrunk(
    image: Rows, longest: int, watch: Callable[[Pixels], object] = lambda strip: None
) -> Pixels:
    """Return the same as `shrink`, but process the image in strips.

    Rows are shrunk first, then columns. Pillow uses the same order, except for images more than
    twice as high as wide: there the last bits of the floats may differ.

    Args:
        image: float32 in [0, 1].
        longest: In pixels, at least 1.
        watch: Called with every strip at full size, from top to bottom.
    """
    size = _size(image.shape, longest)
    narrow = np.empty((image.shape[0], size[0], *image.shape[2:]), np.float32)
    top = 0
    for strip in image:
        watch(strip)
        narrow[top : top + len(strip)] = _resized(strip, (size[0], len(strip)))
        top += len(strip)
    return np.clip(_resized(narrow, size), np.float32(0), np.float32(1))


def _size(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Return width and height, scaled by one factor so that neither exceeds `longest`."""
    height, width = shape[:2]
    scale = min(1.0, longest / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR))
        for channel in np.atleast_3d(image).transpose(2, 0, 1)  # each (h, w)
    ]
    return channels[0] if image.ndim == 2 else np.stack(channels, axis=-1)
