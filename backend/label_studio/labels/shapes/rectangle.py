"""A rectangle: a corner, sides and rotation, in per cent of the image and degrees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from backend.label_studio.labels.shapes.outline import Outline, number
from backend.label_studio.labels.shapes.shape import Shape, Size, Value
from model import masks as codec

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(value: Value, image: Size, size: Size) -> Outline:
    """Return the outline of a rectangle."""
    down, across = image[0] / 100, image[1] / 100
    degrees = number(value, "rotation", 0)
    corner = number(value, "x") * across, number(value, "y") * down
    sides = number(value, "width") * across, number(value, "height") * down
    return Outline.scaled(codec.Box(*corner, *sides, degrees).outline, image, size)


def draw(plane: NDArray[np.bool_], tolerance: float) -> Iterator[Value]:
    """Yield the bounding box of each connected part."""
    height, width = plane.shape
    for part, (row, column) in codec.parts(plane):
        box = codec.box_of(part)
        yield {
            "x": 100 * (box.x + column) / width,
            "y": 100 * (box.y + row) / height,
            "width": 100 * box.width / width,
            "height": 100 * box.height / height,
            "rotation": box.degrees,
        }


RECTANGLE = Shape("Rectangle", "height", read, draw)
