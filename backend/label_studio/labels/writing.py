"""Masks become the regions of a draft, drawn as the label config offers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.label_studio.labels.config import LabelConfig, Tool
from model import masks as codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


def regions(
    mask: Mask, config: LabelConfig, *, scores: Sequence[float], tolerance: float = 1.0
) -> list[dict[str, Any]]:
    """Return regions for each label that covers anything, as Label Studio stores them.

    A label is painted where a tag with a brush has it, as one region. Else every connected part
    becomes a region of its own: a polygon, else an ellipse of the same area moments, else its
    bounding box. A polygon has no holes, so a part with holes is cut across them.

    Args:
        mask: Shape (c, h, w), in the labels' order, at the image's own size.
        config: What `parse` returned.
        scores: One for each label, in [0, 1].
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
    label: str, plane: Mask, config: LabelConfig, *, score: float, tolerance: float = 1.0
) -> list[dict[str, Any]]:
    """Return the regions of one label, as `regions` does, from its plane (h, w) alone."""
    tool = config.tool_for(label)
    return [
        entry
        for value in _values(tool.shape, plane, tolerance)
        for entry in _entries(tool, label, value, float(score), config.image_name, plane.shape)
    ]


def _values(shape: str, plane: Mask, tolerance: float) -> Iterator[dict[str, Any]]:
    if shape == "brush":
        if plane.any():
            yield {"format": "rle", "rle": codec.encode(plane)}
    elif shape == "polygon":
        for part, corner in codec.without_holes(plane):
            yield _polygon(codec.outline_of(part, tolerance), corner, plane.shape)
    else:
        for part, corner in codec.parts(plane):
            box_or_ellipse = _ellipse if shape == "ellipse" else _rectangle
            yield box_or_ellipse(part, corner, plane.shape)


def _polygon(
    outline: NDArray[np.float64], corner: tuple[int, int], size: tuple[int, ...]
) -> dict[str, Any]:
    (row, column), (height, width) = corner, size
    points = (outline + np.array([column, row])) * (100 / width, 100 / height)
    return {"points": points.tolist(), "closed": True}


def _ellipse(part: Mask, corner: tuple[int, int], size: tuple[int, ...]) -> dict[str, Any]:
    (row, column), (height, width), found = corner, size, codec.ellipse_of(part)
    return {
        "x": 100 * (found.x + column) / width,
        "y": 100 * (found.y + row) / height,
        "radiusX": 100 * found.radius_x / width,
        "radiusY": 100 * found.radius_y / height,
        "rotation": found.degrees,
    }


def _rectangle(part: Mask, corner: tuple[int, int], size: tuple[int, ...]) -> dict[str, Any]:
    (row, column), (height, width), found = corner, size, codec.box_of(part)
    return {
        "x": 100 * (found.x + column) / width,
        "y": 100 * (found.y + row) / height,
        "width": 100 * found.width / width,
        "height": 100 * found.height / height,
        "rotation": found.degrees,
    }


def _entries(
    tool: Tool,
    label: str,
    value: dict[str, Any],
    score: float,
    image_name: str,
    size: tuple[int, ...],
) -> list[dict[str, Any]]:
    """Return the one entry of a tool with labels, or the two of one id that Label Studio stores."""
    height, width = size
    # Named by its content: the same draft sent twice is the same region.
    content = f"{label}\n{height} {width}\n{json.dumps(value)}"
    common = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, content)),
        "to_name": image_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
    }
    if not tool.labels_name:
        kind = f"{tool.shape}labels"
        return [common | _typed(tool.name, kind, value | {kind: [label]})]
    return [
        common | _typed(tool.name, tool.shape, value),
        common | _typed(tool.labels_name, "labels", value | {"labels": [label]}),
    ]


def _typed(from_name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": from_name, "type": kind, "value": value}
