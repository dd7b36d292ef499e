"""How one slice of a voxel grid becomes the picture that is shown, and how a mask goes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plane:
    """The slices of a grid across one axis, and how they are turned and stretched to be shown.

    A slice is transposed first, then its rows and its columns are reversed, then it is stretched.

    Attributes:
        axis: The axis of the grid that is cut: 0, 1 or 2.
        transposed: Whether rows of the slice become columns of the picture.
        rows_flipped: Whether the rows of the turned slice are shown from the last to the first.
        columns_flipped: The same of its columns.
        grid_shape: Shape of a slice in the grid: its two other axes, in the grid's order.
        shown_shape: Height and width of the picture, where pixels are square. It equals the shape
            of the turned slice if the grid's pixels are square; else one side is larger.
    """

    axis: int
    transposed: bool
    rows_flipped: bool
    columns_flipped: bool
    grid_shape: tuple[int, int]
    shown_shape: tuple[int, int]

    @property
    def turned_shape(self) -> tuple[int, int]:
        """Height and width after turning, before stretching."""
        return self.grid_shape[::-1] if self.transposed else self.grid_shape

    def cut(self, grid: Array, index: int) -> Array:
        """Return a slice of a grid, as a view: what is written into it is written into the grid."""
        view: Array = np.moveaxis(grid, self.axis, 0)[index]
        return view

    def show(self, values: Array) -> Array:
        """Return the picture of a slice, of shape `shown_shape`; float32 if it was stretched.

        Args:
            values: Shape `grid_shape`, or (*grid_shape, channels).
        """
        turned = self._turned(values)
        if self.shown_shape == self.turned_shape:
            return turned
        return _stretched(turned.astype(np.float32), self.shown_shape)

    def show_mask(self, mask: Mask) -> Mask:
        """Return a mask of shape `grid_shape` as it is shown, of shape `shown_shape`."""
        return _nearest(self._turned(mask), self.shown_shape)

    def back(self, mask: Mask) -> Mask:
        """Return a mask of shape `shown_shape` in the grid: each voxel takes the nearest pixel.

        Raises:
            ValueError: If the mask has another shape.
        """
        if mask.shape != self.shown_shape:
            raise ValueError(f"the mask has the shape {mask.shape}, expected {self.shown_shape}")
        turned = _nearest(mask, self.turned_shape)[
            :: -1 if self.rows_flipped else 1, :: -1 if self.columns_flipped else 1
        ]
        return turned.T if self.transposed else turned

    def _turned(self, values: Array) -> Array:
        if values.shape[:2] != self.grid_shape:
            raise ValueError(f"the slice has the shape {values.shape}, expected {self.grid_shape}")
        upright = values.swapaxes(0, 1) if self.transposed else values
        return upright[:: -1 if self.rows_flipped else 1, :: -1 if self.columns_flipped else 1]


def _stretched(values: Array, shape: tuple[int, int]) -> Array:
    """Return float32 values at another height and width, interpolated linearly."""
    height, width = shape
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR))
        for channel in np.atleast_3d(values).transpose(2, 0, 1)  # each (h, w)
    ]
    return channels[0] if values.ndim == 2 else np.stack(channels, axis=-1)


def _nearest(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Return a mask at another height and width: each pixel takes the one at its centre."""
    if mask.shape == shape:
        return mask
    rows, columns = (
        ((np.arange(to) + 0.5) * of / to).astype(int)
        for of, to in zip(mask.shape, shape, strict=True)
    )
    picked: Mask = mask[np.ix_(rows, columns)]
    return picked
