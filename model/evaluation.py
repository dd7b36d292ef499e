"""How well a mask agrees with the truth: overlap (Dice) and distance of the outlines (HD95).

Records, reports and pages take all facts about a metric from METRICS. To add a metric, add an entry
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from model import volumes

Masks = NDArray[np.bool_]
Scores = NDArray[np.float64]
Measure = Callable[[Masks, Masks, Sequence[float] | None], Scores]
VolumeMeasure = Callable[[volumes.Stack, volumes.Stack, Sequence[int], volumes.Spacing], Scores]


@dataclass(frozen=True)
class Metric:
    """A measure of predicted masks against true ones, and how to read its values.

    Attributes:
        name: For records and columns of data, such as "dice".
        title: For pages and reports, such as "Dice".
        function: Returns the score of each class, shape (c,), of predicted masks (c, h, w), true
            masks and the height and width of a pixel.
        unit: Of the scores if no height and width of a pixel are given; "" for a share.
        empty: The score if both masks are empty.
        higher_is_better: False for a distance.
    """

    name: str
    title: str
    function: Measure
    volume_function: VolumeMeasure
    unit: str
    empty: float
    higher_is_better: bool

    def of_labels(self, pred: Masks, true: Masks, spacing: Sequence[float] | None = None) -> Scores:
        """Return the score of each class of a scan, shape (c,); NaN for a class in neither mask.

        Args:
            pred: Predicted masks, shape (c, h, w).
            true: True masks of the same shape.
            spacing: Height and width of a pixel.
        """
        return where_drawn(self.function(pred, true, spacing), pred, true)

    def of_pages(
        self,
        pred: Sequence[Masks],
        true: Sequence[Masks],
        spacing: Sequence[float] | None = None,
    ) -> Scores:
        """Return the score of each class of a slab, shape (c,); NaN for a class on no page.

        A share counts the pixels of all pages together, as in a volume. So a page that is rightly
        empty adds nothing; by itself it would score 1.0. A distance lies within a page: it is the
        mean of the pages that have the class.

        Args:
            pred: Predicted masks of each page, shape (c, h, w).
            true: True masks of the same shapes.
            spacing: Height and width of a pixel.
        """
        if not self.unit:
            return self.of_labels(_joined(pred), _joined(true))
        scores = [self.of_labels(*pair, spacing) for pair in zip(pred, true, strict=True)]
        return mean(scores, empty=np.nan, axis=0)

    def of_volume(
        self,
        pred: volumes.Stack,
        true: volumes.Stack,
        places: Sequence[int],
        spacing: volumes.Spacing,
    ) -> Scores:
        """Return the score of each class of a volume, shape (c,); NaN for a class in neither.

        Args:
            pred: Predicted masks of the judged slices, shape (n, c, h, w).
            true: True masks of the same shape.
            places: Index of each judged slice in its volume, rising.
            spacing: Size of a voxel in mm: between slices, down, across.
        """
        scores = self.volume_function(pred, true, places, spacing)
        there = (pred | true).any(axis=(0, 2, 3))
        return np.where(there, scores, np.nan)

    def of_scan(self, pred: Iterable[Masks], true: Iterable[Masks]) -> float:
        """Return the score of a scan: the mean over the classes that are in either mask.

        Args:
            pred: Predicted masks by class, shape (h, w); only one is in memory at a time.
            true: True masks in the same order.
        """
        scores = [self.of_labels(*pair)[0] for pair in zip(pred, true, strict=True)]
        return float(self.mean(scores))

    def mean(self, scores: ArrayLike, *, axis: int = -1) -> Scores:
        """Return the mean of the scores along an axis without NaN; `empty` if all are NaN."""
        return mean(scores, empty=self.empty, axis=axis)

    def worst(self, scores: ArrayLike) -> float:
        """Return the worst of some scores."""
        return float(np.min(scores) if self.higher_is_better else np.max(scores))

    def better(self, score: float, other: float) -> bool:
        """Return whether a score is better than another score; equal scores are not."""
        return score > other if self.higher_is_better else score < other

    def heading(self, unit: str = "") -> str:
        """Return the title, with the unit for a distance; `unit` is the unit of the spacing."""
        return f"{self.title} ({unit or self.unit})" if self.unit else self.title


def dice(pred: Masks, true: Masks, spacing: Sequence[float] | None = None) -> Scores:
    """Return the Dice coefficient of each class, shape (c,); 1.0 where both masks are empty.

    Args:
        pred: Predicted masks, shape (c, h, w), or (h, w) for one class.
        true: True masks of the same shape.
        spacing: Ignored, because a share has no unit; every metric gets the same arguments.

    Raises:
        ValueError: If the shapes differ or the masks are not boolean.
    """
    pred, true = _pair(pred, true)
    common = (pred & true).sum(axis=(1, 2))
    total = pred.sum(axis=(1, 2)) + true.sum(axis=(1, 2))
    return np.where(total == 0, 1.0, 2.0 * common / np.maximum(total, 1))


def drawn(pred: Masks, true: Masks) -> NDArray[np.bool_]:
    """Return which classes are in either mask, shape (c,).

    Classes that are neither drawn nor predicted must not count: in a project of eight classes, of
    which each scan shows one, they would give every mask a high score.
    """
    pred, true = _pair(pred, true)
    return np.array([mask.any() for mask in pred | true], dtype=np.bool_)


def scan_dice(pred: Iterable[Masks], true: Iterable[Masks]) -> float:
    """Return the Dice of a scan: the mean over the classes that are in either mask.

    1.0 if both masks are empty in every class: the prediction is right.

    Args:
        pred: Predicted masks by class, shape (h, w); only one is in memory at a time.
        true: True masks in the same order.
    """
    return MAIN.of_scan(pred, true)


def where_drawn(scores: Scores, pred: Masks, true: Masks) -> Scores:
    """Return the scores of the classes that are in either mask, NaN for the others, shape (c,).

    Args:
        scores: Of each class, shape (c,), as `dice` and `hd95` return them.
        pred, true: The masks that were scored.
    """
    return np.where(drawn(pred, true), scores, np.nan)


def mean(scores: ArrayLike, *, empty: float, axis: int = -1) -> Scores:
    """Return the mean of the scores that are not NaN, along one axis of `scores`.

    Args:
        scores: Of scans, classes or networks; NaN for a class in neither mask.
        empty: The result if every score is NaN.
        axis: The axis to average over.
    """
    values = np.asarray(scores, np.float64)
    there = ~np.isnan(values)
    sums, counts = np.where(there, values, 0).sum(axis=axis), there.sum(axis=axis)
    return np.where(counts == 0, empty, sums / np.maximum(counts, 1))


def hd95(pred: Masks, true: Masks, spacing: Sequence[float] | None = None) -> Scores:
    """Return the 95th-percentile Hausdorff distance of each class, shape (c,).

    It is the larger of the two directed percentiles between the outlines. If both masks are empty
    it is 0.0; if only one is empty, the image's diagonal.

    Args:
        pred: Predicted masks, shape (c, h, w), or (h, w) for one class.
        true: True masks of the same shape.
        spacing: Height and width of a pixel; without it distances are in pixels.

    Raises:
        ValueError: If the shapes differ, the masks are not boolean or the spacing is not positive.
    """
    pred, true = _pair(pred, true)
    pixel = _pixel(spacing)
    return np.array([_hd95(p, t, pixel) for p, t in zip(pred, true, strict=True)], dtype=np.float64)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("dice", "Dice", dice, volumes.dice, unit="", empty=1.0, higher_is_better=True),
        Metric(
            "hd95", "HD95", hd95, volumes.hd95, unit="pixels", empty=0.0, higher_is_better=False
        ),
    )
}
MAIN = METRICS["dice"]  # decides the gate, the worst scan and comparisons
OTHERS = [metric for metric in METRICS.values() if metric is not MAIN]


def of_labels(
    pred: Masks, true: Masks, spacing: Sequence[float] | None = None
) -> dict[str, Scores]:
    """Return the scores of a scan's classes by name of the metric; see `Metric.of_labels`."""
    return {name: metric.of_labels(pred, true, spacing) for name, metric in METRICS.items()}


def of_pages(
    pred: Sequence[Masks], true: Sequence[Masks], spacing: Sequence[float] | None = None
) -> dict[str, Scores]:
    """Return the scores of a slab's classes by name of the metric; see `Metric.of_pages`."""
    return {name: metric.of_pages(pred, true, spacing) for name, metric in METRICS.items()}


def dice_of_scans(
    pred: Iterable[Masks], true: Iterable[Masks], scans: Iterable[int]
) -> dict[int, float]:
    """Return the Dice of each scan, by its number; 1.0 where both masks of a scan are empty.

    Args:
        pred: Predicted masks of each page, shape (c, h, w); those of one scan are in memory.
        true: True masks of the same shapes.
        scans: The number of each page's scan. Pages of a scan follow one another.
    """
    pages = zip(scans, pred, true, strict=True)
    found: dict[int, float] = {}
    for scan, of_scan in groupby(pages, key=itemgetter(0)):
        _, masks, truth = zip(*of_scan, strict=True)
        found[scan] = float(MAIN.mean(MAIN.of_pages(masks, truth)))
    return found


def of_volume(
    pred: volumes.Stack, true: volumes.Stack, places: Sequence[int], spacing: volumes.Spacing
) -> dict[str, Scores]:
    """Return the scores of a volume's classes by name of the metric; see `Metric.of_volume`."""
    return {name: metric.of_volume(pred, true, places, spacing) for name, metric in METRICS.items()}


def _hd95(pred: Masks, true: Masks, pixel: Scores) -> float:
    if not pred.any() and not true.any():
        return 0.0
    if not pred.any() or not true.any():
        return float(np.linalg.norm(pixel * pred.shape))
    there = _distances(_outline(pred), _outline(true), pixel)
    back = _distances(_outline(true), _outline(pred), pixel)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _outline(mask: Masks) -> Masks:
    inside: Masks = binary_erosion(mask)
    return mask & ~inside


def _distances(start: Masks, goal: Masks, pixel: Scores) -> Scores:
    to_goal: Scores = distance_transform_edt(~goal, sampling=pixel)
    return to_goal[start]


def _joined(pages: Sequence[Masks]) -> Masks:
    """Return the masks of all pages as one row of pixels, shape (c, 1, n)."""
    return np.concatenate([page.reshape(len(page), 1, -1) for page in pages], axis=2)


def _pair(pred: Masks, true: Masks) -> tuple[Masks, Masks]:
    if pred.shape != true.shape or pred.ndim not in (2, 3):
        raise ValueError(
            f"masks of shapes {pred.shape} and {true.shape}: expected two of the same shape, "
            "(classes, height, width) or (height, width)"
        )
    if pred.dtype != np.bool_ or true.dtype != np.bool_:
        raise ValueError(
            f"masks of types {pred.dtype} and {true.dtype}: expected bool; compare probabilities "
            "with a threshold first"
        )
    height, width = pred.shape[-2:]
    return pred.reshape(-1, height, width), true.reshape(-1, height, width)


def _pixel(spacing: Sequence[float] | None) -> Scores:
    pixel = np.asarray((1.0, 1.0) if spacing is None else spacing, dtype=np.float64)
    if pixel.shape != (2,) or not np.all(np.isfinite(pixel)) or not np.all(pixel > 0):
        raise ValueError(f"spacing {spacing}: expected the height and width of a pixel, above 0")
    return pixel
