"""An ellipse: centre, radii and rotation, in per cent of the image and degrees."""

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
    """Return the outline of an ellipse."""
    down, across = image[0] / 100, image[1] / 100
    degrees = number(value, "rotation", 0)
    centre = number(value, "x") * across, number(value, "y") * down
    radii = number(value, "radiusX") * across, number(value, "radiusY") * down
    return Outline.scaled(codec.Ellipse(*centre, *radii, degrees).outline, image, size)


def draw(plane: NDArray[np.bool_], tolerance: float) -> Iterator[Value]:
    """Yield for each connected part the ellipse of the same area moments."""
    height, width = plane.shape
    for part, (row, column) in codec.parts(plane):
        ellipse = codec.ellipse_of(part)
        yield {
            "x": 100 * (ellipse.x + column) / width,
            "y": 100 * (ellipse.y + row) / height,
            "radiusX": 100 * ellipse.radius_x / width,
            "radiusY": 100 * ellipse.radius_y / height,
            "rotation": ellipse.degrees,
        }


ELLIPSE = Shape("Ellipse", "radiusX", read, draw)
