"""What a trained network says of a scan: probabilities at the scan's own size, and their entropy.

`prepare` and `restore` are the one way into and out of the network, for training as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.special import entr
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention_unet import AttentionUnet, attention_maps

if TYPE_CHECKING:
    from model.training import Fitted

Image = NDArray[np.float32]
Probabilities = NDArray[np.float32]

CHANNELS = 3  # grey scans are repeated, so that one network reads grey and colour alike


def entropy(probabilities: Probabilities) -> NDArray[np.float64]:
    """Return how undecided the network is about each scan, from 0 (sure) to 1, shape (n,).

    Binary entropy over ln 2 of each class by itself, mean over classes and pixels.

    Args:
        probabilities: Of independent classes, shape (n, c, h, w), without padding.

    Raises:
        ValueError: If the shape has other than four axes, or a value lies outside [0, 1].
    """
    means: NDArray[np.float64] = _bits(probabilities).mean(axis=(1, 2, 3), dtype=np.float64)
    return np.minimum(means, 1.0)  # float32 rounding near 0.5


def boundary_entropy(probabilities: Probabilities, band: float = 5) -> NDArray[np.float64]:
    """Return how undecided the network is along the outlines it predicts, 0 to 1, shape (n,).

    Entropy as in `entropy`, but the mean over the pixels within `band` of the outline of the
    predicted mask (p > 0.5), class by class; a class without an outline takes all pixels. Certain
    background, most of a scan, then no longer hides an uncertain border (Ma et al. 2024,
    "Breaking the Barrier: Selective Uncertainty-based Active Learning for Medical Image
    Segmentation", arXiv 2401.16298).

    Args:
        probabilities: Of independent classes, shape (n, c, h, w), without padding.
        band: Greatest distance of a pixel's centre from the nearest one of the other side, in
            pixels, at least 1.

    Raises:
        ValueError: If the shape or a value is not as described.
    """
    if not band >= 1:
        raise ValueError(f"band is {band}: expected at least 1 pixel")
    bits = _bits(probabilities)
    means = [
        [_mean_near_outline(plane, mask, band) for plane, mask in zip(*scan, strict=True)]
        for scan in zip(bits, probabilities > 0.5, strict=True)
    ]
    flat = np.array(means, np.float64).reshape(probabilities.shape[:2])
    found: NDArray[np.float64] = np.minimum(flat.mean(axis=1), 1.0)
    return found


UNCERTAINTIES = {"entropy": entropy, "boundary-entropy": boundary_entropy}


def _bits(probabilities: Probabilities) -> NDArray[np.floating[Any]]:
    if probabilities.ndim != 4:
        raise ValueError(
            f"probabilities of shape {probabilities.shape}: expected (n, classes, height, width); "
            "add an axis to the probabilities of a single scan"
        )
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("probabilities must lie in [0, 1]; apply the sigmoid to logits first")
    bits: NDArray[np.floating[Any]] = (entr(probabilities) + entr(1 - probabilities)) / np.log(2)
    return bits


def _mean_near_outline(
    bits: NDArray[np.floating[Any]], mask: NDArray[np.bool_], band: float
) -> float:
    if mask.all() or not mask.any():
        return float(bits.mean(dtype=np.float64))
    across = np.where(mask, distance_transform_edt(mask), distance_transform_edt(~mask))
    return float(bits[across <= band].mean(dtype=np.float64))


def predict(
    fitted: Fitted, images: Iterable[Image], *, batch_size: int = 8
) -> Iterator[Probabilities]:
    """Yield each scan's probabilities in turn, shape (c, h, w) at the scan's own size.

    Scans are taken from `images` a batch at a time, so a pool may be larger than memory.

    Args:
        fitted: The trained network.
        images: Scans of shape (h, w) or (h, w, 3), values in [0, 1], each of any size.
        batch_size: Scans given to the network at once, at least 1.

    Raises:
        ValueError: If an image cannot be prepared, or batch_size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: expected at least 1")
    pool = iter(images)
    while batch := list(islice(pool, batch_size)):
        squares = probabilities_of(fitted.network, prepare(batch, fitted.config.image_size))
        runs = [(s, len(list(run))) for s, run in groupby(image.shape[:2] for image in batch)]
        parts = torch.split(squares, [length for _, length in runs])
        for (shape, _), part in zip(runs, parts, strict=True):
            yield from restore(part, shape).numpy()


def attention(network: AttentionUnet, image: Image, size: int) -> NDArray[np.float32]:
    """Return what each attention gate lets through of a scan, coarse to fine, shape (g, h, w).

    Values lie in [0, 1], at the scan's own size; g is 0 where the network has no skip to gate.

    Args:
        network: A trained one.
        image: Shape (h, w) or (h, w, 3), values in [0, 1].
        size: The image size it was trained at.

    Raises:
        ValueError: If the image cannot be prepared.
    """
    device = next(network.parameters()).device
    found = attention_maps(network, prepare([image], size).to(device))
    squares = [_resized(gate[0].float().cpu(), (size, size)) for gate in found]
    whole = torch.cat([torch.zeros(0, size, size), *squares])
    maps: NDArray[np.float32] = restore(whole, image.shape[:2]).numpy()
    return maps


@torch.inference_mode()
def probabilities_of(network: nn.Module, prepared: Tensor) -> Tensor:
    """Return the probabilities of prepared scans on the CPU, shape (n, classes, size, size)."""
    network.eval()
    device = next(network.parameters()).device
    return torch.sigmoid(network(prepared.to(device)).float()).cpu()


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
    above_fill = _resized(planes, (height, width)) - fill
    return F.pad(above_fill, (0, size - width, 0, size - height)) + fill


def restore(squares: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return what is not padding of squares (..., c, size, size), resized to (..., c, *shape)."""
    height, width = fitting(shape, squares.shape[-1])
    planes = _resized(squares[..., :height, :width], shape)
    return planes.clamp_(0.0, 1.0)  # interpolation may overshoot by a rounding error


def _resized(planes: Tensor, shape: tuple[int, ...]) -> Tensor:
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
