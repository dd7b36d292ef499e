"""What a model is worth on held-out scans, and the quality that its record keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.rounds import volume_figures
from backend.rounds.volume_figures import JudgedSlice, Place
from backend.storage.records import HELD_OUT_KEPT, ModelQuality
from model import calibration, evaluation
from model.evaluation import MAIN, METRICS

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]

JUDGED_PIXELS = 10_000  # of each scan and label, for the calibration

TaskPage = tuple[int, int]  # task id, and page from 0


@dataclass(frozen=True)
class ScanScore:
    """What a model is worth on a page of a held-out scan: scores, and some pixels with the truth.

    A label that was neither drawn nor predicted has no score: NaN. `slice` holds the masks of a
    slice of a volume.
    """

    scores: Mapping[str, Sequence[float]]  # of each label, by metric; lengths in original pixels
    probabilities: Pixels  # (m,)
    truth: Mask  # (m,)
    slice: JudgedSlice | None = None

    @property
    def mean(self) -> float:
        """Mean Dice over the labels that have one; 1.0 where the scan is rightly empty."""
        return float(MAIN.mean(self.scores[MAIN.name]))


def measured(
    quality: ModelQuality, judged: Mapping[TaskPage, ScanScore], labels: Sequence[str]
) -> ModelQuality:
    """Return the quality of a model with what the pages of held-out scans say of it.

    A label's scores are over the pages that have any of it, drawn or predicted. A page of a slab
    that is rightly empty does not count, unless all its pages are: it would score 1.0 by itself.
    """
    counted = _counted(judged)
    probabilities = calibration.pixels([one.probabilities for one in judged.values()])
    truth = calibration.pixels([one.truth for one in judged.values()])
    means, by_label, held_out = {}, {}, {}
    pages: dict[int, list[ScanScore]] = {}
    for task, page in sorted(counted):
        pages.setdefault(task, []).append(counted[task, page])
    kept = list(pages.items())[:HELD_OUT_KEPT]
    for name, metric in METRICS.items():
        scores = np.array([one.scores[name] for one in counted.values()])  # (n, c)
        means[name] = float(metric.mean(scores).mean())
        held_out[name] = {
            task: float(np.mean([metric.mean(one.scores[name]) for one in of_task]))
            for task, of_task in kept
        }
        of_labels = metric.mean(scores, axis=0).tolist()
        by_label[name] = dict(zip(labels, of_labels, strict=True))
    slices = (one.slice for one in judged.values() if one.slice)
    return quality.changed(
        volumes=volume_figures.scores(slices),
        validation=means,
        by_label=by_label,
        validation_scans=len({task for task, _ in judged}),
        held_out=held_out,
        calibration_error=calibration.expected_calibration_error(probabilities, truth),
        temperature=calibration.temperature(probabilities, truth),
    )


def _counted(judged: Mapping[TaskPage, ScanScore]) -> dict[TaskPage, ScanScore]:
    """Return the pages with any label, drawn or predicted, and all pages of other tasks."""
    held = {key for key, score in judged.items() if not np.isnan(score.scores[MAIN.name]).all()}
    tasks = {task for task, _ in held}
    return {key: score for key, score in judged.items() if key in held or key[0] not in tasks}


def scored(
    probabilities: Pixels, truth: Mask, pixel: tuple[float, float], place: Place | None
) -> ScanScore:
    """Return what a model is worth on a page of a held-out scan.

    Args:
        probabilities: Shape (c, h, w).
        truth: True masks of the same shape.
        pixel: Height and width of a pixel, in pixels of the original.
        place: Of the page in its volume, None if it is no slice.
    """
    drawn = probabilities > 0.5
    scores = evaluation.of_labels(drawn, truth, pixel)
    return ScanScore(
        scores={name: of.tolist() for name, of in scores.items()},
        probabilities=thinned(probabilities),
        truth=thinned(truth),
        slice=JudgedSlice.of(place, drawn, truth, pixel) if place else None,
    )


def thinned(planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return about as many pixels as are judged of planes (c, h, w), evenly spread, in one row."""
    step = math.ceil(math.sqrt(planes[0].size / JUDGED_PIXELS))
    return planes[:, ::step, ::step].ravel()
