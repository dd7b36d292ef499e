"""Write masks as the regions of a draft, with the tools of the label config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.label_studio.labels.config import LabelConfig, Tool
from backend.label_studio.labels.shapes import REGISTRY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


def regions(
    mask: Mask, config: LabelConfig, *, scores: Sequence[float], tolerance: float = 1.0
) -> list[dict[str, Any]]:
    """Return regions for each label that covers anything, as Label Studio stores them.

    A label with a brush becomes one painted region. Without a brush every connected part becomes a
    region of its own: a polygon if the label has that tool, else an ellipse of the same area
    moments, else its bounding box. A polygon has no holes, so a part with holes is cut across them.

    Args:
        mask: Shape (c, h, w), in the labels' order, at the image's own size.
        config: What `parse` returned.
        scores: A score for each label, in [0, 1].
        tolerance: How far a polygon may run from the mask to have fewer points, in pixels.
    """
    if not len(mask) == len(scores) == len(config.labels):
        raise ValueError(
            f"got {len(mask)} masks and {len(scores)} scores for {len(config.labels)} labels"
        )
    if not all(0 <= score <= 1 for score in scores):
        raise ValueError(f"scores must lie in [0, 1], got {list(scores)}")
    return [
        region
        for label, plane, score in zip(config.labels, mask, scores, strict=True)
        for region in regions_of(label, plane, config, score=score, tolerance=tolerance)
    ]


def regions_of(
    label: str,
    plane: Mask,
    config: LabelConfig,
    *,
    score: float,
    tolerance: float = 1.0,
    page: int = 0,
) -> list[dict[str, Any]]:
    """Return the regions of one label on a page, as `regions` does, from its plane (h, w) alone.

    The id of the first region is `region_id(label, page)`, and its number follows in the id of each
    other part. So a later answer about the same label takes the place of the regions that are
    shown. Regions of slabs name their page, from 0, as `item_index`.
    """
    tool = config.tool_for(label)
    draw = REGISTRY[tool.shape].draw
    height, width = plane.shape
    common = {
        "to_name": config.image_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": float(score),
        **({"item_index": page} if config.paged else {}),
    }
    return [
        {"id": region_id(label, page) + (f".{part}" if part else "")} | common | entry
        for part, value in enumerate(draw(plane, tolerance) if draw else ())
        for entry in _entries(tool, label, value)
    ]


def region_id(label: str, page: int = 0) -> str:
    """Return the id of a prelabel's region: `<class>-<page>`."""
    # Label Studio's editor drops an id's end from # on.
    return f"{label.replace('#', '%23')}-{page}"


def _entries(tool: Tool, label: str, value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the one entry of a tool with labels, or the two of one id that Label Studio stores."""
    if not tool.labels_name:
        kind = REGISTRY[tool.shape].labels_tag.lower()
        return [_typed(tool.name, kind, value | {kind: [label]})]
    return [
        _typed(tool.name, tool.shape, value),
        _typed(tool.labels_name, "labels", value | {"labels": [label]}),
    ]


def _typed(from_name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": from_name, "type": kind, "value": value}
