"""Label configs, regions and masks that the tests of labels share."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from backend.label_studio import labels
from backend.label_studio.labels import LabelConfig, Tool

with warnings.catch_warnings():
    # The SDK, here only as an oracle, warns of its own deprecated imports.
    warnings.simplefilter("ignore")
    from label_studio_sdk.converter.brush import mask2rle
    from label_studio_sdk.label_interface.interface import LabelInterface


IMAGE = '<Image name="image" value="$image"/>'
BRUSH = (
    '<BrushLabels name="tag" toName="image"><Label value="Lung"/><Label value="Heart"/>'
    "</BrushLabels>"
)
LABELS = '<Labels name="names" toName="image"><Label value="Lung"/><Label value="Heart"/></Labels>'
PLAIN = f"<View>{IMAGE}{BRUSH}</View>"
BOTH = ("Lung", "Heart")
CONFIG = LabelConfig("image", "image", (Tool("tag", "brush", BOTH),), BOTH, {"Lung": 0, "Heart": 1})
QUICK = settings(max_examples=40)
SHAPED = "".join(
    f'<{shape}Labels name="{shape}" toName="image"><Label value="Lung"/></{shape}Labels>'
    for shape in ("Polygon", "Rectangle", "Ellipse")
)
EVERY = labels.parse(f"<View>{IMAGE}{BRUSH}{SHAPED}</View>")
SQUARE: dict[str, Any] = {
    "x": 20,
    "y": 50,
    "width": 40,
    "height": 50,
}  # on 10 x 8: columns 2 to 5, rows 4 to 7
ROUND: dict[str, Any] = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 25}
TRIANGLE: dict[str, Any] = {"points": [[0, 0], [100, 0], [0, 100]]}
DRAWN: dict[str, dict[str, Any]] = {"rectangle": SQUARE, "ellipse": ROUND, "polygon": TRIANGLE}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def region(mask: np.ndarray[Any, Any], label: str = "Lung", **other: Any) -> dict[str, Any]:
    height, width = mask.shape
    return {
        "id": "a",
        "from_name": "tag",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": mask2rle(mask.astype(np.uint8) * 255),  # type: ignore[no-untyped-call]
            "brushlabels": [label],
        },
    } | other


def problems(xml: str, result: list[dict[str, Any]]) -> list[str]:
    """Return what Label Studio's own check finds wrong with a prediction."""
    prediction = {"model_version": "v", "score": 0.5, "result": result}
    return LabelInterface(xml).validate_prediction(prediction, return_errors=True)  # type: ignore[no-any-return, no-untyped-call]


def block(height: int, width: int, rows: slice, columns: slice) -> np.ndarray[Any, Any]:
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def shape(kind: str, value: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A region on an image of 10 x 8 pixels."""
    return {
        "id": kind,
        "from_name": kind.capitalize(),
        "to_name": "image",
        "type": f"{kind}labels",
        "original_width": 10,
        "original_height": 8,
        "image_rotation": 0,
        "value": {f"{kind}labels": ["Lung"]} | value,
    } | other


def picture(mask: np.ndarray[Any, Any]) -> list[str]:
    return ["".join(".#"[int(pixel)] for pixel in row) for row in mask]


def paired(kind: str, value: dict[str, Any], label: str = "Lung", **other: Any) -> list[Any]:
    """The two entries that Label Studio stores for one region."""
    one = shape(kind, {}, **other) | {"value": value}
    return [
        one | {"type": kind, "from_name": "s"},
        one | {"type": "labels", "from_name": "names", "value": value | {"labels": [label]}},
    ]


APART = labels.parse(
    f'<View>{IMAGE}<Polygon name="p" toName="image"/><Brush name="s" toName="image"/>'
    f'<Rectangle name="r" toName="image"/><Ellipse name="e" toName="image"/>{LABELS}</View>'
)


def offering(kind: str, *, apart: bool = False) -> str:
    tag = kind.capitalize()
    if apart:
        return f'<View>{IMAGE}<{tag} name="s" toName="image"/>{LABELS}</View>'
    both = '<Label value="Lung"/><Label value="Heart"/>'
    return f'<View>{IMAGE}<{tag}Labels name="s" toName="image">{both}</{tag}Labels></View>'


KINDS = ["brush", "polygon", "rectangle", "ellipse"]
