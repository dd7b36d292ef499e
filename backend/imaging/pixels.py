"""Pixels as the science takes them: float32 in [0, 1], (h, w) if grey, else (h, w, 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import ImageError

Pixels = npt.NDArray[np.float32]

STRIP = 2**20  # pixels that are worked on at once


@dataclass(frozen=True)
class Rows:
    """An image whose pixels are made a few rows at a time, so that they never all exist at once.

    Attributes:
        shape: (h, w) if grey, else (h, w, channels).
        read: Returns the rows from the first number to below the second.
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
        """Return the rows after `change`, which looks at each pixel alone.

        Args:
            change: Takes some rows and returns them changed.
            shape: Of the changed image; the same if it is not given.
        """
        return Rows(shape or self.shape, lambda top, bottom: change(self.read(top, bottom)))

    def whole(self) -> Pixels:
        """Return all rows as one array."""
        found = np.empty(self.shape, np.float32)
        top = 0
        for strip in self:
            found[top : top + len(strip)] = strip
            top += len(strip)
        return found


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
    """Return bytes divided by 255."""
    return np.divide(values, np.float32(255), dtype=np.float32)


def one_channel(image: Rows) -> Rows:
    """Return colour whose three channels are all equal as grey, anything else as it is."""
    if len(image.shape) == 3 and all(_is_grey(strip) for strip in image):
        return image.map(lambda strip: np.ascontiguousarray(strip[..., 0]), image.shape[:2])
    return image


def _is_grey(strip: npt.NDArray[Any]) -> bool:
    return all(np.array_equal(strip[..., 0], strip[..., channel]) for channel in (1, 2))


def stretched(values: Rows, *, inverted: bool = False) -> Rows:
    """Return values scaled so that their lowest is 0 and their highest 1; one value alone is 0.

    What is no number, or infinite, is black and does not count.
    """
    ends = [(strip.min(), strip.max()) for strip in map(_counted, values) if strip.size]
    if not ends:
        return values.map(lambda strip: np.zeros(strip.shape, np.float32))
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    return values.map(lambda strip: scaled(strip, low, high, inverted=inverted))


def _counted(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


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
    size = _size(image.shape, longest)
    if size == (image.shape[1], image.shape[0]):
        return image
    return np.clip(_resized(image, size), np.float32(0), np.float32(1))


def shrunk(
    image: Rows, longest: int, watch: Callable[[Pixels], object] = lambda strip: None
) -> Pixels:
    """Return what `shrink` returns of the whole image, but in strips.

    Each row is shrunk first, then each column. Pillow takes them in this order as well, but not for
    images more than twice as high as wide: of those the last bits of the floats may differ.

    Args:
        image: float32 in [0, 1].
        longest: In pixels, at least 1.
        watch: Is handed every strip at its full size, from top to bottom.
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
    """Return width and height, shrunk alike so that neither is above `longest`."""
    height, width = shape[:2]
    scale = min(1.0, longest / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR))
        for channel in np.atleast_3d(image).transpose(2, 0, 1)  # each (h, w)
    ]
    return channels[0] if image.ndim == 2 else np.stack(channels, axis=-1)
