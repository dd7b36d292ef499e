"""The result of an annotation becomes masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.labels.config import BARE, LABELLED, SHAPES, LabelConfig
from model import masks as codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Points = NDArray[np.float64]
    Region = dict[str, Any]

# Of a brush: a few kilobytes of RLE can announce any size.
_MOST_PIXELS = 100_000_000
_FARTHEST = 1000  # per cent of the image: the editor keeps what is drawn inside it, more or less
_FEWEST_POINTS = 3
_UNREAD = frozenset({"bitmask", "bitmasklabels"})
_TELLING = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "height": "rectangle"}


def masks(result: Sequence[Any], config: LabelConfig, *, size: tuple[int, int]) -> Mask:
    """Return what an annotation's regions cover, shape (c, h, w), in the labels' order.

    Regions of one label are united. A region counts by its type and label, whatever its tag is
    called: tags may have been renamed since. Key points, choices and other regions that are no
    masks are left out. Outlines are drawn at `size` (h, w), a brush of another size is scaled to
    it by nearest neighbour; what would vanish by that covers the pixels that it touches.

    Raises:
        ValueError: If a region cannot be read; it says which and why.
    """
    try:
        return _united(result, config, size)
    except RecursionError:  # from showing what came instead of a number, say
        raise ValueError("the result is nested too deeply") from None


def _united(result: Sequence[Any], config: LabelConfig, size: tuple[int, int]) -> Mask:
    out = np.zeros((len(config.labels), *size), dtype=bool)
    for index, shape, region, labels in _regions(result, config):
        try:
            rows = _rows(region, labels, config)
            out[rows] |= _drawn(shape, region, size)
        except ValueError as error:
            raise ValueError(f"{shape} region {index}: {error}") from error
    return out


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


# -- which entries of a result are masks -----------------------------------------------------------


def _regions(
    result: Sequence[Any], config: LabelConfig
) -> Iterator[tuple[int, str, Region, list[Any]]]:
    """Yield each region once: (index, shape, entry, labels).

    A tool with labels of its own writes one entry. One with a separate Labels tag writes two of
    one id: the shape, and the shape again with the labels.
    """
    for index, entry in enumerate(result):
        _check(index, entry, config)
    labels_of = _separate_labels(result, config)
    drawn = {_id(entry, i) for i, entry in enumerate(result) if _type(entry) in LABELLED | BARE}
    others = {_id(entry, i) for i, entry in enumerate(result) if not _is_separate(entry, config)}
    for index, entry in enumerate(result):
        kind, here = _type(entry), _id(entry, index)
        if kind in LABELLED:
            yield index, LABELLED[kind], entry, _listed(entry, kind)
        elif kind in BARE:
            yield index, BARE[kind], entry, _listed(entry, "labels") or labels_of.get(here, [])
        elif _is_separate(entry, config) and here not in drawn:
            shape = _told_shape(entry)
            if shape in SHAPES or here not in others:  # else it labels a key point, say
                yield index, shape, entry, labels_of[here]


def _check(index: int, entry: Any, config: LabelConfig) -> None:
    """Refuse what would be lost without a word, and with it a label."""
    if not isinstance(entry, dict):
        raise ValueError(f"entry {index} of the result is not an object")
    kind = _type(entry)
    if kind in _UNREAD:
        raise ValueError(f"region {index}: a {kind} is not read; use {', '.join(SHAPES)}")
    ours = entry.get("from_name") in [tool.name for tool in config.tools]
    if ours and kind not in LABELLED | BARE:
        raise ValueError(f"region {index}: its type is {kind!r}, which draws no mask")


def _separate_labels(result: Sequence[Region], config: LabelConfig) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for index, entry in enumerate(result):
        if _is_separate(entry, config):
            found.setdefault(_id(entry, index), []).extend(_listed(entry, "labels"))
    return found


def _is_separate(entry: Region, config: LabelConfig) -> bool:
    """Return whether it is of a Labels tag on the image; those of texts name another object."""
    return _type(entry) == "labels" and entry.get("to_name") == config.image_name


def _told_shape(entry: Region) -> str:
    value = _value(entry)
    return next((shape for key, shape in _TELLING.items() if key in value), "shapeless")


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
    # A region left out would turn its scan into a true empty mask.
    if region.get("to_name") != config.image_name:
        raise ValueError(
            f"it is drawn on {region.get('to_name')!r}, the Image is called {config.image_name!r}"
        )
    if not labels:
        raise ValueError("it has no label" if _value(region) else "its value is empty")
    unknown = [label for label in labels if not isinstance(label, str) or label not in config.rows]
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not one of {', '.join(config.labels)}")
    return [config.rows[label] for label in labels]


def _drawn(shape: str, region: Region, size: tuple[int, int]) -> Mask:
    # `image_rotation` is how the page showed the image: what is stored is not turned with it.
    height, width = _length(region, "original_height"), _length(region, "original_width")
    value = _value(region)
    if shape not in SHAPES:
        raise ValueError("it holds no shape")
    if shape == "brush":
        return _resized(_decoded(value, height, width), size)
    # Turned on the image itself, where angles hold, and only then brought to another size.
    outline = _outline(shape, value, height, width)
    smaller = outline * (size[1] / width, size[0] / height)
    covered = codec.filled(smaller, size)
    if covered.any() or codec.area_of(outline) < 1:
        return covered
    return codec.touched(smaller, size)


def _decoded(value: dict[str, Any], height: int, width: int) -> Mask:
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels are more than a brush is read of ({_MOST_PIXELS}); "
            "outlines are read of any image"
        )
    rle = value.get("rle")
    if value.get("format") != "rle" or not isinstance(rle, list):
        raise ValueError("it holds no run-length encoded mask")
    return codec.decode(rle, height, width)


def _outline(shape: str, value: dict[str, Any], height: int, width: int) -> Points:
    """Return a shape's outline in pixels of its image; what it holds are per cent of it."""
    if shape == "polygon":
        return _points(value) * (width / 100, height / 100)
    across, down, degrees = width / 100, height / 100, _number(value, "rotation", 0)
    x, y = _number(value, "x") * across, _number(value, "y") * down
    if shape == "ellipse":
        radii = _number(value, "radiusX") * across, _number(value, "radiusY") * down
        return codec.Ellipse(x, y, *radii, degrees).outline
    sides = _number(value, "width") * across, _number(value, "height") * down
    return codec.Box(x, y, *sides, degrees).outline


def _points(value: dict[str, Any]) -> Points:
    points = value.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ValueError("its points are not a list of [x, y] in per cent of the image")
    if len(points) < _FEWEST_POINTS:
        raise ValueError(f"it has {len(points)} points, expected at least {_FEWEST_POINTS}")
    return np.array(points, np.float64)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(_is_percent(each) for each in point)


def _number(value: dict[str, Any], name: str, default: float | None = None) -> float:
    number = value.get(name, default)
    if not _is_percent(number):
        what = "degrees" if name == "rotation" else "per cent of the image"
        raise ValueError(f"{name} is {_short(number)}, expected {what}")
    return float(number)  # type: ignore[arg-type]


def _short(found: Any) -> str:
    return repr(found)[:40]


def _is_percent(number: Any) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return abs(number) <= _FARTHEST  # so is no NaN


def _value(region: Region) -> dict[str, Any]:
    value = region.get("value")
    if not isinstance(value, dict):
        raise ValueError("it has no value")
    return value


def _length(region: Region, name: str) -> int:
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
    # What is too small or too thin for this size must not be lost.
    return scaled if scaled.any() else _touched(mask, size)


def _touched(mask: Mask, size: tuple[int, int]) -> Mask:
    """Return the pixels of another size that hold any of a mask."""
    for axis, (new, old) in enumerate(zip(size, mask.shape, strict=True)):
        mask = np.logical_or.reduceat(mask, np.arange(new) * old // new, axis=axis)
    return mask
