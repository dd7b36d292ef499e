"""Show a network scans in the polarity of the labelled ones: dark and bright not exchanged.

An X-ray whose format says that its values are inverted may have lost that on its way to a PNG file.
A network that was trained on the other X-rays draws the wrong places on such a scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.evaluation import Masks
from model.preprocessing import Image, letterbox, resized

SIDE = 16  # pixels at which scans are compared
# A scan is inverted if its mean correlation with the labelled scans is lower. In three sets of one
# polarity the lowest was -0.05 with five labelled scans, and -0.29 with two
# (docs/benchmarks/training.md).
LOWEST = -0.1
LEAST = 5  # groups of labelled scans

# What is drawn lies at one place if the masks of two groups overlap by more than this: of lungs and
# hippocampi by 0.6 and more, of hearts and cells by 0.5 and less (docs/benchmarks/training.md).
ONE_PLACE = 0.55
GRID = 32  # pixels at which masks are compared

Layout = NDArray[np.float32]
Plane = NDArray[np.bool_]  # a mask of one class, (h, w)


def reference_of(
    images: Sequence[Image],
    masks: Sequence[Masks],
    groups: Sequence[int] | None,
    scans: Sequence[int] | None,
) -> tuple[float, ...]:
    """Return the layout to which a network's scans are aligned; empty where none is inverted.

    Args:
        images: The labelled scans, shape (h, w) or (h, w, 3) each.
        masks: Of each image, shape (classes, h, w).
        groups: Of each image, such as its patient; None if each is a group of its own.
        scans: The number of each image's scan; None if each is a scan of its own.
    """
    # Pages are predicted one by one, and none may be inverted beside its neighbours.
    if scans is not None and len(set(scans)) < len(scans):
        return ()
    return usual(images, groups) if lies_at_one_place(overlap(masks, groups)) else ()


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


def lies_at_one_place(shared: float) -> bool:
    """Return whether people draw at the same place in all labelled scans, as with lungs.

    It is False if the place is unknown.

    Args:
        shared: The `overlap` of the labelled scans.
    """
    return shared > ONE_PLACE


def overlap(masks: Sequence[Masks], groups: Sequence[int] | None = None) -> float:
    """Return how far the masks of two groups overlap: from 0 to 1 (always the same mask).

    It is the mean product of two masks of different groups divided by the mean product of a mask
    with itself, by class; every group counts the same. It is NaN if no class is drawn in two
    groups: then the place is unknown.

    Args:
        masks: Of the labelled scans, each of shape (classes, h, w).
        groups: Of each mask, such as its patient; None if each is a group of its own. Masks of one
            group overlap in any case, so they say nothing of the place.
    """
    values = [
        _overlap(list(planes.values()))
        for label in range(len(masks[0]))
        if len(planes := _by_group([mask[label] for mask in masks], groups)) > 1
    ]
    return float(np.mean(values)) if values else float("nan")


def _by_group(planes: Sequence[Plane], groups: Sequence[int] | None) -> dict[int, list[Plane]]:
    """Return the planes on which something is drawn, by group."""
    found: dict[int, list[Plane]] = {}
    for row, plane in enumerate(planes):
        if plane.any():
            found.setdefault(row if groups is None else groups[row], []).append(plane)
    return found


def _overlap(groups: Sequence[Sequence[Plane]]) -> float:
    together, squares, alone = torch.zeros(GRID, GRID), 0.0, 0.0
    for planes in groups:
        small = torch.stack([_small(plane) for plane in planes])
        mean = small.mean(dim=0)
        together += mean
        squares += float((mean**2).sum())
        alone += float((small**2).sum()) / len(planes)
    # The squared sum holds each group's product with itself once, and that of every pair twice.
    return (float((together**2).sum()) - squares) / (alone * (len(groups) - 1))


def _small(plane: Plane) -> Tensor:
    return letterbox(torch.from_numpy(plane[None].astype(np.float32)), GRID)[0]
