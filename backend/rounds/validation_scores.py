"""What a model is worth on held-out scans, and the quality that its record keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.storage.records import HELD_OUT_KEPT, ModelQuality
from model import calibration
from model.evaluation import MAIN, METRICS

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]

JUDGED_PIXELS = 10_000  # of each scan and label, for the calibration


Place = tuple[int, int]  # of a page: task id and page, from 0


@dataclass(frozen=True)
class ScanScore:
    """What a model is worth on a page of a held-out scan: scores, and some pixels with the truth.

    A label that was neither drawn nor predicted has no score: NaN.
    """

    scores: Mapping[str, Sequence[float]]  # of each label, by metric; lengths in original pixels
    probabilities: Pixels  # (m,)
    truth: Mask  # (m,)

    @property
    def mean(self) -> float:
        """Mean Dice over the labels that have one; 1.0 where the scan is rightly empty."""
        return float(MAIN.mean(self.scores[MAIN.name]))


def measured(
    quality: ModelQuality, judged: Mapping[Place, ScanScore], labels: Sequence[str]
) -> ModelQuality:
    """Return the quality of a model with what the pages of held-out scans say of it.

    A label's scores are over the pages that have any of it, drawn or predicted.
    """
    probabilities = calibration.pixels([one.probabilities for one in judged.values()])
    truth = calibration.pixels([one.truth for one in judged.values()])
    means, by_label, held_out = {}, {}, {}
    pages: dict[int, list[ScanScore]] = {}
    for task, page in sorted(judged):
        pages.setdefault(task, []).append(judged[task, page])
    kept = list(pages.items())[:HELD_OUT_KEPT]
    for name, metric in METRICS.items():
        scores = np.array([one.scores[name] for one in judged.values()])  # (n, c)
        means[name] = float(metric.mean(scores).mean())
        held_out[name] = {
            task: float(np.mean([metric.mean(one.scores[name]) for one in of_task]))
            for task, of_task in kept
        }
        of_labels = metric.mean(scores, axis=0).tolist()
        by_label[name] = dict(zip(labels, of_labels, strict=True))
    return quality.changed(
        validation=means,
        by_label=by_label,
        validation_scans=len({task for task, _ in judged}),
        held_out=held_out,
        calibration_error=calibration.expected_calibration_error(probabilities, truth),
        temperature=calibration.temperature(probabilities, truth),
    )


def thinned(planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return about as many pixels as are judged of planes (c, h, w), evenly spread, in one row."""
    step = math.ceil(math.sqrt(planes[0].size / JUDGED_PIXELS))
    return planes[:, ::step, ::step].ravel()
