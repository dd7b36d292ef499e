"""The label config's classes, and Label Studio's regions as masks and back."""

from backend.label_studio.labels.addresses import address
from backend.label_studio.labels.config import LabelConfig, Tool, parse
from backend.label_studio.labels.merge import merge
from backend.label_studio.labels.prompts import Prompt, Prompts, prompts
from backend.label_studio.labels.reading import check_pages, masks, origins, planes, stacked
from backend.label_studio.labels.shapes import SHAPES
from backend.label_studio.labels.writing import region_id, regions, regions_of

__all__ = [
    "SHAPES",
    "LabelConfig",
    "Prompt",
    "Prompts",
    "Tool",
    "address",
    "check_pages",
    "masks",
    "merge",
    "origins",
    "parse",
    "planes",
    "prompts",
    "region_id",
    "regions",
    "regions_of",
    "stacked",
]
