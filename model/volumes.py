"""How well the masks of a volume agree with the truth, over the slices of it that were judged.

A class is judged in three dimensions: its voxels are counted over all slices together, and its
outline crosses from slice to slice. Slices without a label are unknown: they count neither as
agreement nor as error, and no outline runs along them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

Stack = NDArray[np.bool_]  # (n, c, h, w): judged slices, classes, rows, columns
Scores = NDArray[np.float64]
Spacing = tuple[float, float, float]  # between slices, down, across


def dice(pred: Stack, true: Stack, places: Sequence[int], spacing: Spacing) -> Scores:
    """Return the Dice coefficient of each class, shape (c,); 1.0 where both are empty.

    Args:
        pred: Predicted masks of the judged slices.
        true: True masks of the same shape.
        places: Index of each judged slice in its volume, rising.
        spacing: Ignored, because a share has no unit; every measure gets the same arguments.

    Raises:
        ValueError: If shapes, places or types do not fit.
    """
    _check(pred, true, places, spacing)
    common = (pred & true).sum(axis=(0, 2, 3))
    total = pred.sum(axis=(0, 2, 3)) + true.sum(axis=(0, 2, 3))
    return np.where(total == 0, 1.0, 2.0 * common / np.maximum(total, 1))


def hd95(pred: Stack, true: Stack, places: Sequence[int], spacing: Spacing) -> Scores:
    """Return the 95th-percentile Hausdorff distance of each class, shape (c,).

    It is the larger of the two directed percentiles between the outlines in three dimensions. If
    both masks are empty it is 0.0; if only one is empty, the diagonal of the block from the first
    to the last judged slice. Memory follows the number of outline voxels.

    Args:
        pred: Predicted masks of the judged slices.
        true: True masks of the same shape.
        places: Index of each judged slice in its volume, rising; gaps are slices without labels.
        spacing: Size of a voxel in mm.

    Raises:
        ValueError: If shapes, places, types or spacing do not fit.
    """
    _check(pred, true, places, spacing)
    where = np.asarray(places)
    return np.array(
        [
            _hd95(pred[:, number], true[:, number], where, np.asarray(spacing))
            for number in range(pred.shape[1])
        ],
        dtype=np.float64,
    )


def _hd95(pred: Stack, true: Stack, places: NDArray[np.int_], spacing: Scores) -> float:
    if not pred.any() and not true.any():
        return 0.0
    if not pred.any() or not true.any():
        span = places[-1] - places[0] + 1
        return float(np.linalg.norm(spacing * (span, *pred.shape[1:])))
    found, wanted = (_outline(mask, places, spacing) for mask in (pred, true))
    there, back = KDTree(wanted).query(found)[0], KDTree(found).query(wanted)[0]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _outline(mask: Stack, places: NDArray[np.int_], spacing: Scores) -> Scores:
    """Return the outline voxels of one class (n, h, w) as points in mm, shape (m, 3).

    They have a side towards a voxel outside the mask, in their slice or in the next slice of the
    volume if that was judged. The edge of a picture is outside, as in two dimensions.
    """
    inside = np.stack([binary_erosion(plane) for plane in mask])
    beside = np.diff(places) == 1  # pairs of judged slices without a gap
    inside[1:][beside] &= mask[:-1][beside]
    inside[:-1][beside] &= mask[1:][beside]
    rows = np.argwhere(mask & ~inside)
    rows[:, 0] = places[rows[:, 0]]
    return rows * spacing


def _check(pred: Stack, true: Stack, places: Sequence[int], spacing: Spacing) -> None:
    if pred.shape != true.shape or pred.ndim != 4 or len(pred) != len(places) or len(pred) == 0:
        raise ValueError(
            f"masks of shapes {pred.shape} and {true.shape} for {len(places)} slices: expected two "
            "of the same shape, (slices, classes, height, width), with at least one slice"
        )
    if pred.dtype != np.bool_ or true.dtype != np.bool_:
        raise ValueError(f"masks of types {pred.dtype} and {true.dtype}: expected bool")
    if np.any(np.diff(places) < 1):
        raise ValueError(f"places {list(places)}: expected rising indices of slices")
    sides = np.asarray(spacing)
    if sides.shape != (3,) or not np.all(np.isfinite(sides) & (sides > 0)):
        raise ValueError(f"spacing {spacing}: expected three sides of a voxel in mm, above 0")
