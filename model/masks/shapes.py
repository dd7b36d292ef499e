"""Convert masks to outlines and shapes, and back.

A point is (x, y) in pixels from the image's upper left corner, so that pixel (row 0, column 0)
has its centre at (0.5, 0.5). A shape covers the pixels whose centres lie in it. Angles are degrees,
clockwise on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]  # (n, 2), x before y
Window = tuple[slice, slice]  # rows and columns of an image

ELLIPSE_POINTS = 360  # corners of an ellipse's outline: the error is 0.004 % of its radius
# Slightly off the centre of a pixel: upright, level and 45 degree outlines often run through the
# centre, and rounding would then decide about the pixel.
CENTRE_X, CENTRE_Y = 0.5 + 1e-6, 0.5 + 3e-7
LEAST_IOU = 0.95  # of an outline with its mask


@dataclass(frozen=True)
class Box:
    """A rectangle, given by its upper left corner; the rotation is around that corner."""

    x: float
    y: float
    width: float
    height: float
    degrees: float = 0.0

    @property
    def outline(self) -> Points:
        """The four corners."""
        w, h = self.width, self.height
        corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64)
        return _turned(corners, self.degrees, (self.x, self.y))


@dataclass(frozen=True)
class Ellipse:
    """An ellipse, given by its centre and two radii; the rotation is around the centre."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    degrees: float = 0.0

    @property
    def outline(self) -> Points:
        """ELLIPSE_POINTS points on the ellipse."""
        angles = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        points = circle * (self.radius_x, self.radius_y)
        return _turned(points, self.degrees, (self.x, self.y))


def _turned(points: Points, degrees: float, origin: tuple[float, float]) -> Points:
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    # y grows downwards, so this matrix turns clockwise.
    turned: Points = points @ np.array([[cos, sin], [-sin, cos]]) + np.array(origin)
    return turned


def filled(outline: Points, size: tuple[int, int]) -> Mask:
    """Return the pixels whose centres lie inside the outline, whatever its direction.

    An outline that crosses itself covers the pixels that a canvas would fill (non-zero rule).

    Args:
        outline: Corners, shape (n, 2), closed from the last to the first; may leave the image.
        size: Height and width of the mask.
    """
    covered: Mask = np.zeros(size, bool)
    found, window = filled_window(outline, size)
    covered[window] = found
    return covered


def filled_window(outline: Points, size: tuple[int, int]) -> tuple[Mask, Window]:
    """Return the mask of `filled` cropped to the outline, and the rows and columns of the crop.

    Time and memory depend on the crop: many small shapes on a large image cost little.
    """
    rows, columns = (
        slice(*np.clip([math.floor(side.min()), math.ceil(side.max())], 0, most).tolist())
        for side, most in zip(outline.T[::-1], size, strict=True)
    )
    windings = np.zeros((rows.stop - rows.start, columns.stop - columns.start + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        first, last = (
            min(max(math.ceil(y - CENTRE_Y), rows.start), rows.stop)
            for y in sorted((float(y0), float(y1)))
        )
        crossed = np.arange(first, last)
        crossings = x0 + (crossed + CENTRE_Y - y0) * (x1 - x0) / ((y1 - y0) or 1)
        places = np.clip(np.ceil(crossings - CENTRE_X), columns.start, columns.stop)
        windings[crossed - rows.start, places.astype(np.int64) - columns.start] += (
            1 if y1 > y0 else -1
        )
    covered: Mask = np.cumsum(windings, axis=1)[:, :-1] != 0
    return covered, (rows, columns)


def touched(outline: Points, size: tuple[int, int]) -> Mask:
    """Return the pixels that the outline itself runs through; arguments as in `filled`.

    If the outline is a hundred times as long as the image is wide, some pixels are missing.
    """
    covered: Mask = np.zeros(size, bool)
    most = 200 * sum(size)
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        steps = math.ceil(min(2 * np.abs(end - start).max(), most)) + 1
        places = np.floor(np.linspace(start, end, steps + 1))[:, ::-1]
        inside = ((places >= 0) & (places < size)).all(axis=1)
        covered[tuple(places[inside].astype(np.int64).T)] = True
    return covered


def area_of(outline: Points) -> float:
    """Return the area inside the outline, shape (n, 2), in pixels."""
    x, y = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def parts(mask: Mask) -> Iterator[tuple[Mask, tuple[int, int]]]:
    """Yield each edge-connected patch of pixels, cropped, with the (row, column) of the crop."""
    numbers, _ = ndimage.label(mask)
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), 1):
        yield numbers[rows, columns] == number, (rows.start, columns.start)


def without_holes(mask: Mask) -> Iterator[tuple[Mask, tuple[int, int]]]:
    """Yield the parts of a mask; parts with holes are cut across each hole into parts without.

    Together the parts cover exactly the mask.
    """
    for part, (top, left) in parts(mask):
        holes, number = ndimage.label(ndimage.binary_fill_holes(part) & ~part)
        if not number:
            yield part, (top, left)
            continue
        largest = int(np.argmax(np.bincount(holes.ravel())[1:])) + 1
        rows = np.flatnonzero((holes == largest).any(axis=1))
        cut = int(rows[len(rows) // 2])
        for half, start in ((part[:cut], 0), (part[cut:], cut)):
            for piece, (row, column) in without_holes(half):
                yield piece, (top + start + row, left + column)


def outline_of(part: Mask, tolerance: float) -> Points:
    """Return the corners of a polygon around a part without holes.

    It runs half way between inner and outer pixels. Corners within the tolerance of the simplified
    line are left out (Douglas and Peucker 1973). The tolerance is halved until polygon and part
    have an intersection over union of at least 0.95.

    Args:
        part: A part from `without_holes`, shape (h, w).
        tolerance: In pixels.
    """
    # Padding closes the outline at the border, and makes a pixel's index its centre plus 0.5.
    contours = contour_generator(z=np.pad(part, 1).astype(np.float64)).lines(0.5)
    corners: Points = np.asarray(contours[0])[:-1] - 0.5
    height, width = part.shape
    while tolerance > 0.1:
        simple = _simplified(corners, tolerance)
        if _iou(filled(simple, (height, width)), part) >= LEAST_IOU:
            return simple
        tolerance /= 2
    return _simplified(corners, 0)


def _iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def _simplified(ring: Points, tolerance: float) -> Points:
    closed = np.vstack([ring, ring[:1]])
    farthest = int(np.argmax(np.hypot(*(ring - ring[0]).T)))
    kept = {0, farthest}
    spans = [(0, farthest), (farthest, len(ring))]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        away = _distances(closed[start + 1 : end], closed[start], closed[end])
        if away.max() > tolerance:
            corner = start + 1 + int(np.argmax(away))
            kept.add(corner)
            spans += [(start, corner), (corner, end)]
    return closed[sorted(kept)]


def _distances(points: Points, start: Points, end: Points) -> Points:
    """Return the distance of each point to the line between two points."""
    line = end - start
    along = np.clip((points - start) @ line / (line @ line), 0, 1)
    away: Points = np.hypot(*(points - start - along[:, None] * line).T)
    return away


def box_of(part: Mask) -> Box:
    """Return the smallest upright rectangle that covers all of a mask's pixels.

    Args:
        part: Shape (h, w), not empty.
    """
    rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    return Box(
        x=float(columns[0]),
        y=float(rows[0]),
        width=float(columns[-1] - columns[0] + 1),
        height=float(rows[-1] - rows[0] + 1),
    )


def ellipse_of(part: Mask) -> Ellipse:
    """Return the ellipse with a mask's centre, area moments and direction.

    Args:
        part: Shape (h, w), not empty.
    """
    points = np.argwhere(part)[:, ::-1] + 0.5
    # Pixels are squares, not points: each adds its own variance of 1/12.
    spread = np.cov(points, rowvar=False, bias=True) + np.eye(2) / 12
    (short, long), axes = np.linalg.eigh(spread)
    direction = axes[:, 1]
    x, y = points.mean(axis=0)
    radii = float(2 * np.sqrt(long)), float(2 * np.sqrt(short))
    degrees = float(np.degrees(np.arctan2(direction[1], direction[0])) % 180)
    if 45 < degrees < 135:  # keep each radius along the side that its per cent refer to
        radii, degrees = radii[::-1], (degrees - 90) % 180
    return Ellipse(float(x), float(y), *radii, degrees=degrees)
