"""Which labels may be wrong: labels against networks that never saw them.

The labelled scans are divided into folds by group. A quick network is trained without each fold
and predicts it. A network that was trained on a wrong label would repeat the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.evaluation import dice
from model.fitted import TrainConfig
from model.inference import predict
from model.refinement import LabelledScans, Stopped

FOLDS = 5
SURE = 0.9  # a pixel's probability of the class, or of the background, from which it counts

Masks = NDArray[np.bool_]
Probabilities = NDArray[np.float32]
Reason = Literal["empty", "exchanged", "missing", "extra", "both", "unlike"]


@dataclass(frozen=True)
class Suspicion:
    """How likely a label is wrong, and why.

    Attributes:
        score: The mean confident disagreement of the classes, in [0, 1].
        share: The largest confident disagreement of a class, in [0, 1].
        reason: `empty`: the mask is empty where the networks are sure of a region. `exchanged`:
            the masks of two classes look exchanged. `missing`: the mask leaves out a region that
            the networks are sure of. `extra`: the mask covers a region that they are sure is
            background. `both`: missing and extra. `unlike`: they are not sure.
        label: The class in question, a row of the masks.
        other: The class that it looks exchanged with; None for every other reason.
    """

    score: float
    share: float
    reason: Reason
    label: int
    other: int | None = None


def out_of_fold(
    labelled: LabelledScans,
    held: NDArray[np.bool_],
    config: TrainConfig,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> list[Probabilities]:
    """Return the probabilities (c, h, w) of the held scans, by a network trained on the others.

    Args:
        labelled: The labelled scans.
        held: Which of them are predicted, shape (n,).
        config: How the network is trained.
        stop: Called before every step and every scan.

    Raises:
        Stopped: If `stop` returned True.
        ValueError, Untrainable: As in `training.fit`.
    """
    fitted = labelled.part(~held).fit(config, stop=stop)
    predictions: list[Probabilities] = []
    for row in np.flatnonzero(held):
        if stop():
            raise Stopped
        predictions += predict(fitted, [labelled.images[row]])
    if stop():
        raise Stopped
    return predictions


def suspicion(probabilities: Probabilities, mask: Masks) -> Suspicion:
    """Return how suspicious the label of a scan is.

    Args:
        probabilities: Of each class, from networks that never saw the label, shape (c, h, w).
        mask: The label, of the same shape.
    """
    shares = disagreement(probabilities, mask)
    worst, score, share = int(shares.argmax()), float(shares.mean()), float(shares.max())
    exchanged = _exchanged(probabilities > 0.5, mask)
    if exchanged is not None:
        return Suspicion(score, share, "exchanged", *exchanged)
    return Suspicion(score, share, _reason(probabilities[worst], mask[worst]), worst)


def disagreement(probabilities: Probabilities, mask: Masks) -> NDArray[np.float64]:
    """Return the confident disagreement of each class, in [0, 1], shape (c,).

    Of the pixels that the label and the prediction (> 0.5) cover, counted twice where both do, it
    is the share on which a network sure of its answer contradicts the label. If all pixels were
    sure it would be 1 - Dice.
    """
    missing, extra = _contradictions(probabilities, mask)
    area = (mask.sum(axis=(1, 2)) + (probabilities > 0.5).sum(axis=(1, 2))).astype(float)
    wrong = (missing | extra).sum(axis=(1, 2))
    shares: NDArray[np.float64] = np.divide(wrong, area, out=np.zeros(len(area)), where=area > 0)
    return shares


def _contradictions(probabilities: Probabilities, mask: Masks) -> tuple[Masks, Masks]:
    """Return the pixels that the label wrongly leaves out, and those that it wrongly covers."""
    return (probabilities > SURE) & ~mask, (probabilities < 1 - SURE) & mask


def _reason(probabilities: Probabilities, mask: Masks) -> Reason:
    """Return why the label of one class is suspicious; both of shape (h, w)."""
    missing, extra = (int(part.sum()) for part in _contradictions(probabilities, mask))
    if not missing and not extra:
        return "unlike"
    if not mask.any():
        return "empty"
    if min(missing, extra) * 2 > max(missing, extra):
        return "both"
    return "missing" if missing > extra else "extra"


def _exchanged(predicted: Masks, mask: Masks) -> tuple[int, int] | None:
    """Return two classes whose masks fit the predictions of each other, and not their own."""
    own = dice(predicted, mask)
    for pair in combinations(range(len(mask)), 2):
        crossed = dice(predicted[list(pair)], mask[list(pair[::-1])])
        if crossed.min() > 0.5 > own[list(pair)].max():
            return pair
    return None
