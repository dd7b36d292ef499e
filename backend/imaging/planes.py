"""How one slice of a voxel grid becomes the picture that is shown, and how a mask goes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_SQUARE = 0.01  # pixels whose sides differ by less are shown as they are


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

    @classmethod
    def facing(
        cls, affine: Array, shape: tuple[int, ...], spacing: tuple[float, ...], axis: int
    ) -> Plane:
        """Return the plane that shows slices across an axis as radiologists look at them.

        Slices across the body show its front at the top and its left side on the right; slices
        along it show the head at the top, and the left side or the back on the right.

        Args:
            affine: Voxel to mm, axes to the right, to the front and to the head.
            shape: Of the grid.
            spacing: Of its voxels. The coarser side of a slice is stretched, none is shrunk.
            axis: The axis of the grid that is cut.
        """
        sides, directions = _orientation(affine)
        first, second = (other for other in range(3) if other != axis)
        # Rows go along the side with the higher number: to the back, or from head to foot.
        transposed = sides[second] > sides[first]
        rows, columns = (second, first) if transposed else (first, second)
        finest = min(spacing[rows], spacing[columns])
        return cls(
            axis=axis,
            transposed=transposed,
            rows_flipped=directions[rows] > 0,
            columns_flipped=directions[columns] > 0,
            grid_shape=(shape[first], shape[second]),
            shown_shape=(
                _stretched_side(shape[rows], spacing[rows] / finest),
                _stretched_side(shape[columns], spacing[columns] / finest),
            ),
        )

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


def long_axis(spacing: tuple[float, ...], affine: Array) -> int:
    """Return the axis of a grid along which voxels are longest; of about equals, the head's."""
    sides, _ = _orientation(affine)
    head = sides.index(2)
    if spacing[head] > 0.99 * max(spacing):
        return head
    return max(range(3), key=lambda axis: (spacing[axis], -sides[axis]))


def _orientation(affine: Array) -> tuple[list[int], list[int]]:
    """Return the side (0 right, 1 front, 2 head) that each axis of a grid is nearest to.

    Returns:
        The sides, each once, and for each axis 1, or -1 if it runs to the opposite side.
    """
    import nibabel  # slow to import, and needed only here

    turns = nibabel.orientations.io_orientation(affine)  # type: ignore[no-untyped-call]
    return [int(side) for side, _ in turns], [int(way) for _, way in turns]


def _stretched_side(length: int, ratio: float) -> int:
    return length if ratio < 1 + _SQUARE else round(length * ratio)


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
