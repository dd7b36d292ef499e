"""Masks: as a brush stores them, as outlines and shapes, and tidied before a person sees them."""

from model.masks.rle import decode, encode
from model.masks.shapes import (
    Box,
    Ellipse,
    area_of,
    box_of,
    ellipse_of,
    filled,
    outline_of,
    parts,
    touched,
    without_holes,
)
from model.masks.tidying import tidied

__all__ = [
    "Box",
    "Ellipse",
    "area_of",
    "box_of",
    "decode",
    "ellipse_of",
    "encode",
    "filled",
    "outline_of",
    "parts",
    "tidied",
    "touched",
    "without_holes",
]
