"""Bring scans to the network's size and scale, and its outputs back to the scans' size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Image = NDArray[np.float32]

CHANNELS = 3  # grey scans are repeated, so that one network reads grey and colour


def prepare(images: Sequence[Image], size: int) -> Tensor:
    """Return scans as input of the network, shape (n, 3, size, size), with grey scans repeated.

    Raises:
        ValueError: As in `standardise`.
    """
    return together(standardise(images, size)).expand(-1, CHANNELS, -1, -1)


def standardise(images: Iterable[Image], size: int) -> Iterator[Tensor]:
    """Yield scans at the network's size and scale, each of shape (1 or 3, size, size).

    Intensities get mean 0 and standard deviation 1 over the scan. The longer side becomes `size`,
    the aspect stays, and the scan's darkest value pads below and to the right. Consecutive images
    of one shape are computed together, so pass large collections in batches.

    Args:
        images: Shape (h, w) or (h, w, 3), values in [0, 1].
        size: Side of the square, in pixels.

    Raises:
        ValueError: If an image has another shape, no pixels, or NaN or infinite values.
    """
    for shape, run in groupby(images, key=np.shape):
        if 0 in shape or len(shape) not in (2, 3) or shape[2:] not in ((), (CHANNELS,)):
            raise ValueError(
                f"an image of shape {shape}: expected (height, width) for grey or "
                "(height, width, 3) for colour, with at least one pixel"
            )
        # Copy mirrored views, which torch refuses, and read-only arrays, about which it warns.
        each = [torch.from_numpy(np.require(image, np.float32, ["C", "W"])) for image in run]
        pixels = torch.stack(each)
        yield from _standardised(pixels.movedim(3, 1) if len(shape) == 3 else pixels[:, None], size)


def together(scans: Iterable[Tensor]) -> Tensor:
    """Return standardised scans as one tensor (n, 1 or 3, size, size), 1 if all are grey."""
    each = list(scans)
    planes = max(len(scan) for scan in each)
    return torch.stack([scan.expand(planes, -1, -1) for scan in each])


def _standardised(scans: Tensor, size: int) -> Tensor:
    """Standardise scans (n, c, h, w) in place, and return them as (n, c, size, size)."""
    every = (1, 2, 3)
    means = scans.mean(dim=every, keepdim=True)
    if not means.isfinite().all():
        raise ValueError("an image holds NaN or infinite values; replace them first")
    scans -= means
    deviations = torch.linalg.vector_norm(scans, dim=every, keepdim=True) / scans[0].numel() ** 0.5
    squares = letterbox(scans, size, fill=scans.amin(dim=every, keepdim=True))
    squares /= deviations.clamp_min_(1e-6)  # a blank scan stays finite
    return squares


def letterbox(planes: Tensor, size: int, *, fill: Tensor | float = 0.0) -> Tensor:
    """Return planes (..., h, w) resized to fit a square, (..., size, size).

    The rest, below and to the right, is `fill`: a number, or a number per plane (..., 1, 1).
    """
    height, width = fitting(tuple(planes.shape[-2:]), size)
    above_fill = resized(planes, (height, width)) - fill
    return F.pad(above_fill, (0, size - width, 0, size - height)) + fill


def restore(squares: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Crop the padding of squares (..., c, size, size), and resize them to (..., c, *shape)."""
    height, width = fitting(shape, squares.shape[-1])
    planes = resized(squares[..., :height, :width], shape)
    return planes.clamp_(0.0, 1.0)  # interpolation may overshoot by a rounding error


def resized(planes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return planes (c, h, w) or (n, c, h, w) resized to `shape`, with averaging if they shrink."""
    # When enlarging, antialiasing changes nothing and takes three times as long.
    shrinks = shape[0] < planes.shape[-2] or shape[1] < planes.shape[-1]
    batch = planes if planes.ndim == 4 else planes[None]
    resized = F.interpolate(
        batch, size=shape, mode="bilinear", antialias=shrinks, align_corners=False
    )
    return resized.reshape(*planes.shape[:-2], *shape)


def fitting(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return height and width, at least 1, of an image scaled to `size` on its longer side."""
    height, width = shape
    scale = size / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)
