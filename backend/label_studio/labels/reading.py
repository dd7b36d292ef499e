"""Read the result of an annotation as masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.label_studio.labels.config import LabelConfig
from backend.label_studio.labels.shapes import BARE, LABELLED, REGISTRY, SHAPES
from backend.label_studio.labels.shapes.outline import Outline, short
from model import masks as codec
from model.masks import Boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Region = dict[str, Any]

# Of all regions of one annotation: far beyond drawing by hand, yet read within seconds.
_MOST_RLE = 20_000_000  # bytes of brush masks; a mask of a 60-megapixel scan takes below a million
_MOST_AREA = 1_000  # whole images that the boxes around its outlines cover
_LONGEST = 10**9  # pixels of a side; far longer sides would break the arithmetic
_UNREAD = frozenset({"bitmask", "bitmasklabels"})
# Label Studio may store an accepted mask twice: once more under the type of the click.
_CLICKED = "keypointlabels"


def masks(
    result: Sequence[Any], config: LabelConfig, *, size: tuple[int, int], page: int = 0
) -> Mask:
    """Return what an annotation's regions cover on a page, shape (c, h, w), in the labels' order.

    Regions of one label are united. A region counts by its type and label, whatever its tag is
    called: tags may have been renamed since. Key points, choices and other regions that are no
    masks are left out. Outlines are drawn at `size` (h, w), a brush of another size is scaled to
    it by nearest neighbour. A region that would vanish covers the pixels that it touches. Prompts,
    the clicks and boxes of smart tags, are left out too.

    Time and memory follow what the annotation holds and `size`, not the size that its regions
    claim for the image.

    Raises:
        ValueError: If a region cannot be read, or all are too large; it says which and why.
    """
    out = np.zeros((len(config.labels), *size), dtype=bool)
    for row, plane in enumerate(planes(result, config, size=size, page=page)):
        out[row] = plane
    return out


def planes(
    result: Sequence[Any], config: LabelConfig, *, size: tuple[int, int], page: int = 0
) -> Iterator[Mask]:
    """Return an iterator over the planes (h, w) of `masks`, which holds one plane at a time.

    Raises:
        ValueError: As `masks`, before the first plane.
    """
    try:
        drawings = _drawings(result, config, size, page)
    except RecursionError:  # for example from the repr of a nested value
        raise ValueError("the result is nested too deeply") from None
    return (_plane(drawings.get(row, []), size) for row in range(len(config.labels)))


def stacked(
    result: Sequence[Any], config: LabelConfig, *, size: tuple[int, int], pages: int
) -> Iterator[Mask]:
    """Yield the planes of all pages below each other, shape (pages * h, w), one label at a time.

    Raises:
        ValueError: As `masks`, before the first plane.
    """
    by_page = [planes(result, config, size=size, page=page) for page in range(pages)]
    return (np.concatenate(of_label) for of_label in zip(*by_page, strict=True))


def check_pages(result: Sequence[Any], config: LabelConfig, pages: int) -> None:
    """Raise unless every region lies on a page that its task has.

    Raises:
        ValueError: If one does not, or an entry of the result is no region; see `masks`.
    """
    for index, shape, region, _ in _regions(result, config):
        page = _page(region, index)
        if page >= pages:
            raise ValueError(
                f"{shape} region {index}: its item_index is {page}, but the task has {pages} "
                f"{'pages' if pages > 1 else 'page'}, counted from 0"
            )


# Label Studio's words for where a region comes from; imported regions have none.
_ORIGINS = {"prediction": "kept", "prediction-changed": "changed"}


def origins(result: Sequence[Any], config: LabelConfig) -> dict[str, int]:
    """Return how many regions of masks were kept from a draft, changed in one, and drawn by hand.

    Raises:
        ValueError: If an entry of the result is no region; see `masks`.
    """
    counts = {"kept": 0, "changed": 0, "manual": 0}
    for _, _, region, _ in _regions(result, config):
        counts[_ORIGINS.get(str(region.get("origin")), "manual")] += 1
    return counts


@dataclass
class _Amount:
    """How much an annotation holds so far; a region with two labels counts twice."""

    rle: int = 0  # bytes
    area: float = 0.0  # images

    def add(self, *, rle: int = 0, area: float = 0.0) -> None:
        """Count a region.

        Raises:
            ValueError: If the annotation now holds more than we read of one annotation.
        """
        self.rle, self.area = self.rle + rle, self.area + area
        if self.rle > _MOST_RLE:
            raise ValueError(
                f"with it the brush masks of the annotation take more than {_MOST_RLE} bytes; "
                "draw them again with fewer or smoother strokes"
            )
        if self.area > _MOST_AREA:
            raise ValueError(
                f"with it the outlines of the annotation cover more than {_MOST_AREA} times the "
                "image; delete some that lie above each other"
            )


def _drawings(
    result: Sequence[Any], config: LabelConfig, size: tuple[int, int], page: int
) -> dict[int, list[Boxes | Outline]]:
    """Return the drawings of each label that has any on a page, by the label's row."""
    drawings: dict[int, list[Boxes | Outline]] = {}
    amount = _Amount()
    for index, shape, region, labels in _regions(result, config):
        if _page(region, index) != page:
            continue
        try:
            rows = _rows(region, labels, config)
            amount.add(rle=len(rows) * _rle_length(region))
            drawing = _drawing(shape, region, size)
            if isinstance(drawing, Outline):
                amount.add(area=len(rows) * drawing.share)
        except ValueError as error:
            raise ValueError(f"{shape} region {index}: {error}") from error
        for row in rows:
            drawings.setdefault(row, []).append(drawing)
    return drawings


def _plane(drawings: Sequence[Boxes | Outline], size: tuple[int, int]) -> Mask:
    boxes = [drawing for drawing in drawings if not isinstance(drawing, Outline)]
    plane = codec.painted(boxes, size) if boxes else np.zeros(size, dtype=bool)
    for drawing in drawings:
        if isinstance(drawing, Outline):
            drawing.fill(plane)
    return plane


# -- which entries of a result are masks -----------------------------------------------------------


def _regions(
    result: Sequence[Any], config: LabelConfig
) -> Iterator[tuple[int, str, Region, list[Any]]]:
    """Yield each region once: (index, shape, entry, labels).

    A tool with labels of its own writes one entry. One with a separate Labels tag writes two of
    one id: the shape, and the shape again with the labels. A prompt is no region.
    """
    for index, entry in enumerate(result):
        _check(index, entry, config)
    labels_of = _separate_labels(result, config)
    drawn = {_id(entry, i) for i, entry in enumerate(result) if _type(entry) in LABELLED | BARE}
    others = {_id(entry, i) for i, entry in enumerate(result) if not _is_separate(entry, config)}
    for index, entry in enumerate(result):
        kind, here = _type(entry), _id(entry, index)
        if entry.get("from_name") in config.prompts:
            continue
        if kind in LABELLED:
            yield index, LABELLED[kind], entry, _listed(entry, kind)
        elif kind in BARE:
            yield index, BARE[kind], entry, _listed(entry, "labels") or labels_of.get(here, [])
        elif _is_separate(entry, config) and here not in drawn:
            shape = _told_shape(entry)
            if shape in REGISTRY or here not in others:  # else it labels, for example, a key point
                yield index, shape, entry, labels_of[here]


def _check(index: int, entry: Any, config: LabelConfig) -> None:
    """Refuse an entry that would be dropped silently, and with it a label."""
    if not isinstance(entry, dict):
        raise ValueError(f"entry {index} of the result is not an object")
    kind = _type(entry)
    if kind in _UNREAD:
        raise ValueError(f"region {index}: a {kind} is not read; use {', '.join(SHAPES)}")
    ours = entry.get("from_name") in [tool.name for tool in config.tools]
    if ours and kind not in LABELLED | BARE and kind != _CLICKED:
        raise ValueError(f"region {index}: its type is {kind!r}, which draws no mask")


def _separate_labels(result: Sequence[Region], config: LabelConfig) -> dict[str, list[Any]]:
    labels: dict[str, list[Any]] = {}
    for index, entry in enumerate(result):
        if _is_separate(entry, config):
            labels.setdefault(_id(entry, index), []).extend(_listed(entry, "labels"))
    return labels


def _is_separate(entry: Region, config: LabelConfig) -> bool:
    """Return whether an entry is of a Labels tag on the image, and not, say, on a text."""
    return _type(entry) == "labels" and entry.get("to_name") == config.image_name


def _told_shape(entry: Region) -> str:
    value = _value(entry)
    return next((name for name, shape in REGISTRY.items() if shape.key in value), "shapeless")


def _id(entry: Region, index: int) -> str:
    return str(entry.get("id") or f"entry {index}")


def _type(entry: Region) -> str:
    return str(entry.get("type"))


def _listed(entry: Region, key: str) -> list[Any]:
    value = entry.get("value")
    labels = value.get(key) if isinstance(value, dict) else None
    return labels if isinstance(labels, list) else []


# -- one region ------------------------------------------------------------------------------------


def _rows(region: Region, labels: Sequence[Any], config: LabelConfig) -> list[int]:
    # Raise instead of skipping the region: without it the scan would count as truly empty.
    if region.get("to_name") != config.image_name:
        raise ValueError(
            f"it is drawn on {region.get('to_name')!r}, but the Image is called "
            f"{config.image_name!r}"
        )
    if not labels:
        raise ValueError("it has no label" if _value(region) else "its value is empty")
    unknown = [label for label in labels if not isinstance(label, str) or label not in config.rows]
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not one of {', '.join(config.labels)}")
    return sorted({config.rows[label] for label in labels})


def _page(region: Region, index: int) -> int:
    """Return the page of a region, from 0; a region of a single image names none."""
    page = region.get("item_index") or 0
    if isinstance(page, bool) or not isinstance(page, int) or page < 0:
        raise ValueError(
            f"region {index}: item_index is {short(page)}, expected a page's number from 0 on"
        )
    return page


def _rle_length(region: Region) -> int:
    rle = _value(region).get("rle")
    return len(rle) if isinstance(rle, list) else 0


def _drawing(shape: str, region: Region, size: tuple[int, int]) -> Boxes | Outline:
    # Ignore `image_rotation`: the page turns the image, not the stored region.
    image = _length(region, "original_height"), _length(region, "original_width")
    value = _value(region)
    if shape not in REGISTRY:
        raise ValueError("it holds no shape")
    return REGISTRY[shape].read(value, image, size)


def _value(region: Region) -> dict[str, Any]:
    value = region.get("value")
    if not isinstance(value, dict):
        raise ValueError("it has no value")
    return value


def _length(region: Region, name: str) -> int:
    length = region.get(name)
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= _LONGEST:
        raise ValueError(f"{name} is {short(length)}, expected a number of pixels")
    return length
