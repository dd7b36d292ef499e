"""Masks: brush encoding, outlines and shapes, and tidying before a person sees them."""

from model.masks.rle import Boxes, decode, decode_boxes, encode, painted
from model.masks.shapes import (
    Box,
    Ellipse,
    area_of,
    box_of,
    ellipse_of,
    filled,
    filled_window,
    outline_of,
    parts,
    touched,
    without_holes,
)
from model.masks.tidying import tidied

__all__ = [
    "Box",
    "Boxes",
    "Ellipse",
    "area_of",
    "box_of",
    "decode",
    "decode_boxes",
    "ellipse_of",
    "encode",
    "filled",
    "filled_window",
    "outline_of",
    "painted",
    "parts",
    "tidied",
    "touched",
    "without_holes",
]
