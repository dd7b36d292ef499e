"""Merge the masks of several annotators: the pixels that they probably mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

MOST_STEPS = 100  # of the estimation; masks of people need some ten


def staple(masks: Sequence[Mask]) -> Mask:
    """Return the pixels that belong to each class with a probability above one half.

    STAPLE estimates how sensitive and how specific each annotator is together with the true mask,
    one class at a time. A class that all annotators drew alike is returned as they drew it.

    Args:
        masks: Of each annotator, shape (c, h, w).

    Raises:
        ValueError: If there is no mask, or if their shapes differ.

    Source:
        Warfield, Zou & Wells 2004, https://doi.org/10.1109/TMI.2004.828354, by SimpleITK.
    """
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1:
        raise ValueError(f"expected one or more masks of one shape, got {sorted(shapes)}")
    return np.stack([_plane(planes) for planes in zip(*masks, strict=True)])


def _plane(planes: Sequence[Mask]) -> Mask:
    first = planes[0]
    if all(np.array_equal(first, plane) for plane in planes[1:]):
        return first.copy()  # the estimate is NaN where nobody, or everybody, drew everything
    import SimpleITK  # takes seconds to import, and only this option needs it

    images = [SimpleITK.GetImageFromArray(plane.astype(np.uint8)) for plane in planes]
    estimate = SimpleITK.STAPLE(images, 1.0, 1.0, MOST_STEPS)  # type: ignore[no-untyped-call]
    probable: Mask = SimpleITK.GetArrayFromImage(estimate) > 0.5
    return probable
