"""What a model is worth on held-out scans, and the quality that its record keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.rounds.models import volume_figures
from backend.rounds.models.volume_figures import JudgedSlice, SlicePosition
from backend.storage.records import HELD_OUT_KEPT, ModelQuality
from model import calibration, evaluation
from model.evaluation import MAIN, METRICS

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]

JUDGED_PIXELS = 10_000  # of each scan and label, for the calibration


@dataclass(frozen=True)
class JudgedPage:
    """A page of a held-out scan: the prediction of a model, and the true mask.

    Attributes:
        probabilities: Of each class, shape (c, h, w).
        truth: True masks of the same shape.
        pixel: Height and width of a pixel, in pixels of the original.
        position: Of the page in its volume, None if it is no slice.
    """

    probabilities: Pixels
    truth: Mask
    pixel: tuple[float, float]
    position: SlicePosition | None

    @property
    def predicted(self) -> Mask:
        """The model's masks, shape (c, h, w)."""
        return self.probabilities > 0.5

    @property
    def slice(self) -> JudgedSlice | None:
        """The masks of a slice of a volume, None if it is no slice."""
        if self.position is None:
            return None
        return JudgedSlice.of(self.position, self.predicted, self.truth, self.pixel)


@dataclass(frozen=True)
class ScanScore:
    """What a model is worth on a held-out scan: scores, and some pixels with the truth.

    A label that was neither drawn nor predicted has no score: NaN. `slices` holds the masks of
    those pages that are slices of a volume.
    """

    scores: Mapping[str, Sequence[float]]  # of each label, by metric; lengths in original pixels
    probabilities: Pixels  # (m,)
    truth: Mask  # (m,)
    slices: Sequence[JudgedSlice] = ()

    @property
    def mean(self) -> float:
        """Mean Dice over the labels that have one; 1.0 where the scan is rightly empty."""
        return float(MAIN.mean(self.scores[MAIN.name]))


def measured(
    quality: ModelQuality, judged: Mapping[int, ScanScore], labels: Sequence[str]
) -> ModelQuality:
    """Return the quality of a model with what held-out scans, by task id, say of it.

    A label's scores are over the scans that have any of it, drawn or predicted.
    """
    probabilities = calibration.pixels([one.probabilities for one in judged.values()])
    truth = calibration.pixels([one.truth for one in judged.values()])
    means, by_label, held_out = {}, {}, {}
    kept = sorted(judged.items())[:HELD_OUT_KEPT]
    for name, metric in METRICS.items():
        scores = np.array([one.scores[name] for one in judged.values()])  # (n, c)
        means[name] = float(metric.mean(scores).mean())
        held_out[name] = {task: float(metric.mean(one.scores[name])) for task, one in kept}
        of_labels = metric.mean(scores, axis=0).tolist()
        by_label[name] = dict(zip(labels, of_labels, strict=True))
    return quality.changed(
        volumes=volume_figures.scores(each for one in judged.values() for each in one.slices),
        validation=means,
        by_label=by_label,
        validation_scans=len(judged),
        held_out=held_out,
        calibration_error=calibration.expected_calibration_error(probabilities, truth),
        temperature=calibration.temperature(probabilities, truth),
    )


def scored(pages: Sequence[JudgedPage]) -> ScanScore:
    """Return what a model is worth on a held-out scan; one that is no slab has one page."""
    predicted, truth = [page.predicted for page in pages], [page.truth for page in pages]
    scores = evaluation.of_pages(predicted, truth, pages[0].pixel)
    return ScanScore(
        scores={name: of.tolist() for name, of in scores.items()},
        probabilities=np.concatenate([thinned(page.probabilities) for page in pages]),
        truth=np.concatenate([thinned(page.truth) for page in pages]),
        slices=[page.slice for page in pages if page.slice is not None],
    )


def thinned(planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return about as many pixels as are judged of planes (c, h, w), evenly spread, in one row."""
    step = math.ceil(math.sqrt(planes[0].size / JUDGED_PIXELS))
    return planes[:, ::step, ::step].ravel()
