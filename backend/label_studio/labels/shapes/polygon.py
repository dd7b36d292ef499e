"""A polygon: corners in per cent of the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.label_studio.labels.shapes.outline import Outline, is_percent
from backend.label_studio.labels.shapes.shape import Shape, Size, Value
from model import masks as codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEWEST_POINTS = 3


def read(value: Value, image: Size, size: Size) -> Outline:
    """Return the outline through the points of a polygon."""
    height, width = image
    return Outline.scaled(_points(value) * (width / 100, height / 100), image, size)


def draw(plane: NDArray[np.bool_], tolerance: float) -> Iterator[Value]:
    """Yield a polygon for each connected part; a part with holes is cut across them."""
    height, width = plane.shape
    for part, (row, column) in codec.without_holes(plane):
        outline = codec.outline_of(part, tolerance)
        points = (outline + np.array([column, row])) * (100 / width, 100 / height)
        yield {"points": points.tolist(), "closed": True}


def _points(value: Value) -> NDArray[np.float64]:
    points = value.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ValueError("its points are not a list of [x, y] in per cent of the image")
    if len(points) < _FEWEST_POINTS:
        raise ValueError(f"it has {len(points)} points, expected at least {_FEWEST_POINTS}")
    return np.array(points, np.float64)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(is_percent(each) for each in point)


POLYGON = Shape("Polygon", "points", read, draw)
