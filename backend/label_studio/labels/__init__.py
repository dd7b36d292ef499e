"""The label config's classes, and Label Studio's regions as masks and back."""

from backend.label_studio.labels.config import LabelConfig, Tool, parse
from backend.label_studio.labels.merge import merge
from backend.label_studio.labels.reading import masks, planes
from backend.label_studio.labels.shapes import SHAPES
from backend.label_studio.labels.writing import regions, regions_of

__all__ = [
    "SHAPES",
    "LabelConfig",
    "Tool",
    "masks",
    "merge",
    "parse",
    "planes",
    "regions",
    "regions_of",
]
