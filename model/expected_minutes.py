"""The minutes that a label of a scan will take, expected from what the model saw in the scan.

The expectation is fitted on labelled scans whose time is known, from what was known of them before
their label. It counts only if it predicts times that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from model.minutes import Work

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5
# With 20 labels each fold is predicted from 16: four for each of the four numbers that are fitted.
LEAST = 20
PENALTIES = np.logspace(-1, 3, 9)
SIDE = 128  # pixels of the longer side at which regions are counted


class MaskSummary(NamedTuple):
    """The model's mask of a scan before it had a label, in three numbers.

    Attributes:
        uncertainty: As it ranks the scan.
        area: The share of the scan that the model would draw, 0 to 1; None if nobody asked.
        regions: The number of separate regions that it would draw, over all classes; None likewise.
    """

    uncertainty: float
    area: float | None = None
    regions: float | None = None


@dataclass(frozen=True)
class Expectation:
    """How well times are predicted, and the expected minutes if they are.

    Attributes:
        labels: Number of labels with a known time that it rests on.
        r2: Share of the variance of log minutes that is predicted out of fold; None with fewer than
            LEAST labels, with fewer than FOLDS groups, or if all took alike.
        minutes: Of each wanted scan, shape (m,); None if they are not to be used.
    """

    labels: int
    r2: float | None = None
    minutes: Floats | None = None


def summary(uncertainty: float, pages: Sequence[NDArray[np.bool_]]) -> MaskSummary:
    """Return what a model saw in a scan.

    Args:
        uncertainty: Of the scan.
        pages: What the model would draw on each page, of equal shape (c, h, w).
    """
    step = -(-max(pages[0].shape[1:]) // SIDE)
    regions = sum(ndimage.label(mask[::step, ::step])[1] for masks in pages for mask in masks)
    area = np.mean([masks.any(axis=0).mean() for masks in pages])
    return MaskSummary(uncertainty, float(area), float(regions))


def expect(known: Floats, work: Work, groups: Ints, wanted: Floats) -> Expectation:
    """Return the expected minutes of some scans.

    Ridge regression of the logarithm of the minutes on the uncertainty, the root of the area (an
    outline grows with it) and the logarithm of the number of regions. Each annotator's mean is
    taken out first, because people differ and the next annotator is unknown. Predictions are not
    extended beyond the fitted times.

    Args:
        known: A `MaskSummary` of each label's scan, shape (n, 3), without NaN.
        work: The times of the labels, capped.
        groups: The group of each label's scan, shape (n,); groups are predicted as a whole.
        wanted: A `MaskSummary` of each wanted scan, shape (m, 3), without NaN.
    """
    count = len(work.minutes)
    if count < LEAST or len(np.unique(groups)) < FOLDS:
        return Expectation(count)
    logs = np.log(work.minutes)
    centred = logs - _means(logs, work.annotator)
    if np.ptp(centred) == 0:
        return Expectation(count)
    features = _features(known)
    r2 = _out_of_fold(features, centred, groups)
    if r2 <= 0 or not len(wanted):
        return Expectation(count, r2)
    predicted = _regression().fit(features, centred).predict(_features(wanted))
    predicted = np.clip(predicted, centred.min(), centred.max())
    return Expectation(count, r2, np.exp(logs.mean() + predicted))


def _means(values: Floats, of: Ints) -> Floats:
    """Return the mean over the values with the same number, for each value, shape (n,)."""
    _, places = np.unique(of, return_inverse=True)
    means: Floats = (np.bincount(places, values) / np.bincount(places))[places]
    return means


def _features(seen: Floats) -> Floats:
    """Return the terms of the regression, shape (n, 3)."""
    return np.column_stack([seen[:, 0], np.sqrt(seen[:, 1]), np.log1p(seen[:, 2])])


def _regression() -> Pipeline:
    return make_pipeline(StandardScaler(), RidgeCV(PENALTIES))


def _out_of_fold(features: Floats, values: Floats, groups: Ints) -> float:
    predicted = np.empty_like(values)
    for rest, fold in GroupKFold(FOLDS).split(features, values, groups):
        predicted[fold] = _regression().fit(features[rest], values[rest]).predict(features[fold])
    errors = float(((values - predicted) ** 2).sum())
    return 1 - errors / float(((values - values.mean()) ** 2).sum())
