"""Show a network scans in the polarity of the labelled ones: dark and bright not exchanged.

An X-ray whose format says that its values are inverted may have lost that on its way to a PNG file.
A network that was trained on the other X-rays draws the wrong places on such a scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.preprocessing import Image, resized

SIDE = 16  # pixels at which scans are compared
# A scan is inverted if its mean correlation with the labelled scans is lower. In three sets of one
# polarity the lowest was -0.05 with five labelled scans, and -0.29 with two
# (docs/benchmarks/training.md).
LOWEST = -0.1
LEAST = 5  # groups of labelled scans

Layout = NDArray[np.float32]


def layout(image: Image) -> Layout:
    """Return the coarse grey values of a scan, shape (SIDE * SIDE,): mean 0, length 1 or 0.

    Args:
        image: Shape (h, w) or (h, w, 3).
    """
    if image.ndim not in (2, 3) or not image.size:
        return np.zeros(SIDE * SIDE, np.float32)  # `preprocessing.standardise` refuses it
    grey = image.mean(axis=2) if image.ndim == 3 else image
    plane = torch.from_numpy(np.require(grey, np.float32, ["C", "W"]))
    values: Layout = resized(plane[None], (SIDE, SIDE)).numpy().ravel()
    values = values - values.mean()
    length = np.linalg.norm(values)
    return values / length if length > 1e-4 else np.zeros_like(values)  # a blank scan


def usual(images: Sequence[Image], groups: Sequence[int] | None = None) -> tuple[float, ...]:
    """Return the mean layout of scans, (SIDE * SIDE,) numbers; none if the groups are too few.

    Args:
        images: Shape (h, w) or (h, w, 3) each.
        groups: Of each scan, such as its patient; every group counts the same. None if each scan is
            a group of its own.
    """
    names, places = np.unique(
        np.arange(len(images)) if groups is None else groups, return_inverse=True
    )
    if len(names) < LEAST:
        return ()
    layouts = [layout(image) for image in images]
    mean: Layout = np.average(layouts, axis=0, weights=1 / np.bincount(places)[places])
    return tuple(mean.tolist())


def aligned(images: Iterable[Image], reference: Sequence[float]) -> list[Image]:
    """Return the scans, those that look like a negative of the reference inverted.

    Args:
        images: Shape (h, w) or (h, w, 3) each.
        reference: As from `usual`; if it is empty, no scan is changed.
    """
    if not reference:
        return list(images)
    towards = np.array(reference, np.float32)
    return [
        image.min() + image.max() - image if layout(image) @ towards < LOWEST else image
        for image in images
    ]
