"""The one way into and out of the network: scans at its size and scale, its answers at theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Image = NDArray[np.float32]

CHANNELS = 3  # grey scans are repeated, so that one network reads grey and colour alike


def prepare(images: Sequence[Image], size: int) -> Tensor:
    """Return scans as the network sees them, shape (n, 3, size, size), grey ones repeated.

    Raises:
        ValueError: As `standardise`.
    """
    return together(standardise(images, size)).expand(-1, CHANNELS, -1, -1)


def standardise(images: Iterable[Image], size: int) -> Iterator[Tensor]:
    """Yield scans at the network's size and scale, each of shape (1 or 3, size, size).

    Intensities have mean 0 and standard deviation 1 over the scan. The longer side becomes `size`,
    the aspect stays, and the scan's darkest value pads below and to the right. Neighbours of one
    shape are computed together, so whoever has many gives them a batch at a time.

    Args:
        images: Shape (h, w) or (h, w, 3), values in [0, 1].
        size: Side of the square, in pixels.

    Raises:
        ValueError: If the shape is another one, or a pixel is missing or not finite.
    """
    for shape, run in groupby(images, key=np.shape):
        if 0 in shape or len(shape) not in (2, 3) or shape[2:] not in ((), (CHANNELS,)):
            raise ValueError(
                f"an image of shape {shape}: expected (height, width) for grey or "
                "(height, width, 3) for colour, with at least one pixel"
            )
        # torch reads neither mirrored views nor, without a warning, what is read-only.
        each = [torch.from_numpy(np.require(image, np.float32, ["C", "W"])) for image in run]
        pixels = torch.stack(each)
        yield from _standardised(pixels.movedim(3, 1) if len(shape) == 3 else pixels[:, None], size)


def together(scans: Iterable[Tensor]) -> Tensor:
    """Return standardised scans as one tensor (n, 1 or 3, size, size), 1 where all are grey."""
    each = list(scans)
    planes = max(len(scan) for scan in each)
    return torch.stack([scan.expand(planes, -1, -1) for scan in each])


def _standardised(scans: Tensor, size: int) -> Tensor:
    """Return scans (n, c, h, w), which it changes, as `standardise` says: (n, c, size, size)."""
    every = (1, 2, 3)
    means = scans.mean(dim=every, keepdim=True)
    if not means.isfinite().all():
        raise ValueError("an image holds NaN or infinite values; replace them before")
    scans -= means
    deviations = torch.linalg.vector_norm(scans, dim=every, keepdim=True) / scans[0].numel() ** 0.5
    squares = letterbox(scans, size, fill=scans.amin(dim=every, keepdim=True))
    squares /= deviations.clamp_min_(1e-6)  # a blank scan stays finite
    return squares


def letterbox(planes: Tensor, size: int, *, fill: Tensor | float = 0.0) -> Tensor:
    """Return planes (..., h, w) resized to fit a square, (..., size, size).

    The rest, below and to the right, is `fill`: a number, or one for each plane (..., 1, 1).
    """
    height, width = fitting(tuple(planes.shape[-2:]), size)
    above_fill = resized(planes, (height, width)) - fill
    return F.pad(above_fill, (0, size - width, 0, size - height)) + fill


def restore(squares: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return what is not padding of squares (..., c, size, size), resized to (..., c, *shape)."""
    height, width = fitting(shape, squares.shape[-1])
    planes = resized(squares[..., :height, :width], shape)
    return planes.clamp_(0.0, 1.0)  # interpolation may overshoot by a rounding error


def resized(planes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return planes (c, h, w) or (n, c, h, w) with `shape` as last axes, averaged where they
    shrink.
    """
    # Enlarging, antialiasing changes nothing and takes three times as long.
    shrinks = shape[0] < planes.shape[-2] or shape[1] < planes.shape[-1]
    batch = planes if planes.ndim == 4 else planes[None]
    resized = F.interpolate(
        batch, size=shape, mode="bilinear", antialias=shrinks, align_corners=False
    )
    return resized.reshape(*planes.shape[:-2], *shape)


def fitting(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return the height and width of an image once its longer side is `size`, at least 1."""
    height, width = shape
    scale = size / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
