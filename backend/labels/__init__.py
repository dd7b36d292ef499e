"""The label config's classes, and Label Studio's regions as masks and back."""

from backend.labels.config import SHAPES, LabelConfig, Tool, parse
from backend.labels.reading import masks, merge
from backend.labels.writing import regions

__all__ = ["SHAPES", "LabelConfig", "Tool", "masks", "merge", "parse", "regions"]
