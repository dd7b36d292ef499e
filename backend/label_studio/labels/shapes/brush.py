"""A brush: any mask, run-length encoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from backend.label_studio.labels.shapes.shape import Shape, Size, Value
from model import masks as codec
from model.masks import Boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(value: Value, image: Size, size: Size) -> Boxes:
    """Return what a brush covers, scaled to a size by nearest neighbour."""
    rle = value.get("rle")
    if value.get("format") != "rle" or not isinstance(rle, list):
        raise ValueError("it holds no run-length encoded mask")
    return codec.decode_boxes(rle, *image, size)


def draw(plane: NDArray[np.bool_], tolerance: float) -> Iterator[Value]:
    """Yield one region for the whole plane; it is exact, whatever the tolerance."""
    if plane.any():
        yield {"format": "rle", "rle": codec.encode(plane)}


BRUSH = Shape("Brush", "rle", read, draw, other_tags=("MagicWand",))
