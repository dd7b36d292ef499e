"""Draw the slices between two drawn slices of a volume from their shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

Masks = NDArray[np.bool_]
Distances = NDArray[np.float64]


def between(before: Masks, after: Masks, place: float) -> Masks:
    """Return the masks of a slice between two drawn slices, shape (c, h, w).

    A pixel is drawn if the mean of its signed distances to the two outlines, weighted by nearness,
    lies inside. A class that is drawn in one slice only shrinks, and ends half-way.

    Args:
        before: Masks of the drawn slice before, shape (c, h, w).
        after: Masks of the drawn slice behind, of the same shape.
        place: Of the slice between them: 0 at `before`, 1 at `after`.

    Raises:
        ValueError: If the shapes differ, or `place` is not from 0 to 1.
    Source:
        Raya & Udupa 1990, shape-based interpolation, https://doi.org/10.1109/42.52980.
    """
    if before.shape != after.shape or before.ndim != 3:
        raise ValueError(
            f"masks of shape {before.shape} and {after.shape}: expected one shape (c, h, w)"
        )
    if not 0 <= place <= 1:
        raise ValueError(f"place is {place}: expected a number from 0 (before) to 1 (after)")
    return np.stack([_between(*pair, place) for pair in zip(before, after, strict=True)])


def _between(before: Masks, after: Masks, place: float) -> Masks:
    first, last = _signed(before), _signed(after)
    if first is None and last is None:
        return np.zeros_like(before)
    # An empty slice has no outline: let it be as far outside as the other's core is inside.
    first = np.full(before.shape, -last.max()) if first is None else first  # type: ignore[union-attr]
    last = np.full(after.shape, -first.max()) if last is None else last
    return np.asarray((1 - place) * first + place * last > 0)


def _signed(mask: Masks) -> Distances | None:
    """Return each pixel's distance to the outline, positive inside; None for an empty mask."""
    if not mask.any():
        return None
    # The outline runs between pixels, half a pixel from the centres on both sides.
    inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] - 0.5
    outside = distance_transform_edt(~mask) - 0.5
    return np.where(mask, inside, -outside)
