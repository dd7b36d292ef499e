"""The label config's classes, and Label Studio's brush regions as masks and back."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

from backend.errors import UnsupportedLabelConfig
from model import masks as codec

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

# A few kilobytes of RLE can announce any size; 16,384 x 16,384 is beyond what a browser draws.
_MOST_PIXELS = 2**28
_OTHER_TOOLS = frozenset(
    f"{shape}{labels}"
    for shape in ("rectangle", "polygon", "ellipse", "keypoint", "brush")
    for labels in ("", "labels")
) - {"brushlabels"}
_DATA_KEY = re.compile(r"\$([\w-]+)")


@dataclass(frozen=True)
class LabelConfig:
    """The one image and the one brush of a labelling interface, by the names results use."""

    image_name: str
    image_key: str
    control_name: str
    labels: tuple[str, ...]


def parse(xml: str) -> LabelConfig:
    """Return the classes of a labelling interface: one Image, and one BrushLabels bound to it.

    A label goes by its alias where it has one, as in the results that Label Studio stores.

    Raises:
        UnsupportedLabelConfig: If this cannot be served; it says what came and how to mend it.
    """
    tags = list(_root(xml).iter())
    image = _only_image(tags)
    brush = _only_brush(tags)
    image_name, control_name = image.get("name", ""), brush.get("name", "")
    if not (image_name and control_name):
        raise UnsupportedLabelConfig(
            "The Image or the BrushLabels tag has no name.", 'Give both a name="...".'
        )
    if brush.get("toName") != image_name:
        raise UnsupportedLabelConfig(
            f"BrushLabels is bound to {_shown(brush.get('toName'))}, the Image is called "
            f"{_shown(image_name)}.",
            "Set toName of BrushLabels to the name of the Image.",
        )
    return LabelConfig(image_name, _data_key(image), control_name, _labels(brush))


def _root(xml: str) -> Element:
    if not xml or not xml.strip():
        raise UnsupportedLabelConfig(
            "The label config is empty.", "Set up a labelling interface in the project."
        )
    try:
        root: Element = SafeTree.fromstring(xml, forbid_dtd=True)
    except DefusedXmlException:
        raise UnsupportedLabelConfig(
            "The label config declares a DTD or entities.", "Remove <!DOCTYPE> and <!ENTITY>."
        ) from None
    except (ParseError, ValueError, LookupError):
        raise UnsupportedLabelConfig(
            "The label config is not valid XML.", "Open it in Label Studio and save it again."
        ) from None
    return root


def _only_image(tags: list[Element]) -> Element:
    images = [tag for tag in tags if _is(tag, "Image")]
    if len(images) != 1:
        raise UnsupportedLabelConfig(
            f"The label config has {len(images)} Image tags, expected 1.",
            'Keep one <Image name="image" value="$image"/>.',
        )
    return images[0]


def _only_brush(tags: list[Element]) -> Element:
    brushes = [tag for tag in tags if _is(tag, "BrushLabels")]
    if len(brushes) == 1:
        return brushes[0]
    if brushes:
        raise UnsupportedLabelConfig(
            f"The label config has {len(brushes)} BrushLabels tags, expected 1.",
            "Keep one BrushLabels tag that holds all labels.",
        )
    others = sorted({_shown(tag.tag) for tag in tags if tag.get("toName")})
    raise UnsupportedLabelConfig(
        f"The label config has no BrushLabels tag; its control tags are: "
        f"{', '.join(others) or 'none'}.",
        'Add <BrushLabels name="tag" toName="image"> with the labels inside.',
    )


def _data_key(image: Element) -> str:
    value = image.get("value")
    key = _DATA_KEY.fullmatch((value or "").strip())
    if key is None:
        raise UnsupportedLabelConfig(
            f"The Image tag's value is {_shown(value)}, expected one data key such as $image.",
            'Set value="$image", with the key that holds the image in your tasks.',
        )
    return key[1]


def _labels(brush: Element) -> tuple[str, ...]:
    tags = [tag for tag in brush.iter() if _is(tag, "Label")]
    labels = [tag.get("alias") or tag.get("value") or "" for tag in tags]
    if not labels:
        raise UnsupportedLabelConfig(
            "BrushLabels has no labels.", 'Put one <Label value="..."/> a class inside it.'
        )
    if not all(labels):
        raise UnsupportedLabelConfig(
            "A Label has no value.", 'Give every Label inside BrushLabels a value="...".'
        )
    doubles = sorted({label for label in labels if labels.count(label) > 1})
    if doubles:
        raise UnsupportedLabelConfig(
            f"BrushLabels has {_shown(doubles[0])} more than once.",
            "Give every label a value, or an alias, of its own.",
        )
    return tuple(labels)


def _is(tag: Element, name: str) -> bool:
    # Label Studio's editor reads tag names without regard to case.
    return tag.tag.lower() == name.lower()


def _shown(text: str | None) -> str:
    return "missing" if text is None else repr(text[:60])


def masks(result: Sequence[Any], config: LabelConfig, *, size: tuple[int, int]) -> Mask:
    """Return what an annotation's brush regions cover, shape (c, h, w), in the labels' order.

    Regions of one label are united. Regions of other types of tag are left out. A region drawn at
    another size is scaled to `size` (h, w) by nearest neighbour.

    Raises:
        ValueError: If a brush region cannot be read; it says which and why.
    """
    _check_tools(result, config)
    out = np.zeros((len(config.labels), *size), dtype=bool)
    for index, region in enumerate(result):
        if not isinstance(region, dict):
            raise ValueError(f"entry {index} of the result is not an object")
        if not _is_brush(region, config):
            continue
        try:
            rows = _label_rows(region, config)
            out[rows] |= _resized(_decoded(region), size)
        except ValueError as error:
            raise ValueError(f"brush region {index}: {error}") from error
    return out


def _check_tools(result: Sequence[Any], config: LabelConfig) -> None:
    """Refuse what was drawn with other tools only: as an empty mask it would teach the wrong."""
    regions = [region for region in result if isinstance(region, dict)]
    others = {str(r.get("type")) for r in regions} & _OTHER_TOOLS
    if others and not any(_is_brush(region, config) for region in regions):
        raise ValueError(f"drawn with {', '.join(sorted(others))} only; the brush is what trains")


def _is_brush(region: dict[str, Any], config: LabelConfig) -> bool:
    return region.get("type") == "brushlabels" or region.get("from_name") == config.control_name


def _label_rows(region: dict[str, Any], config: LabelConfig) -> list[int]:
    # A brush of a former config left out would turn its scan into a true empty mask.
    names = (region.get("from_name"), region.get("to_name"))
    if names != (config.control_name, config.image_name):
        raise ValueError(
            f"it belongs to tag {names[0]!r} on {names[1]!r}, the label config has "
            f"{config.control_name!r} on {config.image_name!r}"
        )
    labels = _value(region).get("brushlabels")
    if not isinstance(labels, list) or not labels:
        raise ValueError("it has no label")
    unknown = [label for label in labels if label not in config.labels]
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not one of {', '.join(config.labels)}")
    return [config.labels.index(label) for label in labels]


def _decoded(region: dict[str, Any]) -> Mask:
    if region.get("image_rotation"):
        raise ValueError(f"the image was rotated by {region['image_rotation']} degrees, expected 0")
    value = _value(region)
    rle = value.get("rle")
    if value.get("format") != "rle" or not isinstance(rle, list):
        raise ValueError("it holds no run-length encoded mask")
    height, width = _length(region, "original_height"), _length(region, "original_width")
    if height * width > _MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {_MOST_PIXELS}")
    return codec.decode(rle, height, width)


def _value(region: dict[str, Any]) -> dict[str, Any]:
    value = region.get("value")
    if not isinstance(value, dict):
        raise ValueError("it has no value")
    return value


def _length(region: dict[str, Any], name: str) -> int:
    length = region.get(name)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"{name} is {length!r}, expected a number of pixels")
    return length


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    if mask.shape == size:
        return mask
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, mask.shape, strict=True)
    )
    scaled: Mask = mask[np.ix_(rows, columns)]
    return scaled


def merge(annotations: Sequence[Mask]) -> Mask:
    """Return the pixels that more than half of the (c, h, w) masks cover; a tie is background."""
    shapes = {mask.shape for mask in annotations}
    if len(shapes) != 1:
        raise ValueError(f"expected one or more masks of one shape, got {sorted(shapes)}")
    votes = np.zeros(shapes.pop(), dtype=np.uint16)
    for mask in annotations:
        votes += mask
    agreed: Mask = 2 * votes > len(annotations)
    return agreed


def regions(mask: Mask, config: LabelConfig, *, scores: Sequence[float]) -> list[dict[str, Any]]:
    """Return one Label Studio brush region for each label that covers anything.

    Args:
        mask: Shape (c, h, w), in the labels' order, at the image's own size.
        config: What `parse` returned.
        scores: One for each label, in [0, 1].
    """
    if not len(mask) == len(scores) == len(config.labels):
        raise ValueError(
            f"got {len(mask)} masks and {len(scores)} scores for {len(config.labels)} labels"
        )
    if not all(0 <= score <= 1 for score in scores):
        raise ValueError(f"scores must lie in [0, 1], got {list(scores)}")
    classes = zip(config.labels, mask, scores, strict=True)
    return [_region(*each, config) for each in classes if each[1].any()]


def _region(label: str, mask: Mask, score: float, config: LabelConfig) -> dict[str, Any]:
    height, width = mask.shape
    rle = codec.encode(mask)
    # Named by its content: the same draft sent twice is the same region.
    content = f"{label}\n{height} {width}\n{rle}"
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, content)),
        "from_name": config.control_name,
        "to_name": config.image_name,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": float(score),
        "value": {"format": "rle", "rle": rle, "brushlabels": [label]},
    }
