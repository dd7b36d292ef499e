"""Masks as annotators see them, for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.imaging.planes import Mask, Plane


def shown_mask(plane: Plane, mask: Mask) -> Mask:
    """Return a mask of shape `grid_shape` as it is shown: each pixel takes the nearest voxel."""
    turned = replace(plane, shown_shape=plane.turned_shape).show(mask)
    rows, columns = (
        ((np.arange(to) + 0.5) * of / to).astype(int)
        for of, to in zip(turned.shape, plane.shown_shape, strict=True)
    )
    picked: Mask = turned[np.ix_(rows, columns)]
    return picked
