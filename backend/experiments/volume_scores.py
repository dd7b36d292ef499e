"""How a model does on whole volumes, whose slices are the scans of an experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backend.experiments.datasets import ScanFile
from backend.experiments.scans import Masks, VolumeSlice
from model import evaluation
from model.evaluation import METRICS

Array = npt.NDArray[Any]
BY_METRIC = {name: f"volume_{name}" for name in METRICS}  # names of the means over volumes


class _Judged(NamedTuple):
    place: VolumeSlice
    predicted: Masks
    true: Masks


def scored(pairs: Iterable[tuple[ScanFile, Masks]]) -> tuple[Array, Array]:
    """Return the scores of scans and of the volumes that they are slices of.

    Args:
        pairs: Scans with their predicted masks (c, h, w). Slices of a volume follow each other by
            rising index, so that the masks of only one volume are in memory.

    Returns:
        Scores of each metric of METRICS, scan and class, shape (m, n, c), and of each metric,
        volume and class, shape (m, v, c); NaN for a class that is neither drawn nor predicted.
    """
    of_scans: list[list[Array]] = []
    of_volumes: list[list[Array]] = []
    for volume, members in groupby(pairs, lambda pair: _volume(pair[0])):
        slices = []
        for scan, predicted in members:
            true = scan.load()[1]
            of_scans.append([*evaluation.of_labels(predicted, true, scan.spacing).values()])
            if scan.place:
                slices.append(_Judged(scan.place, predicted, true))
        if volume:
            of_volumes.append(_of_volume(slices))
    by_scan: Array = np.array(of_scans)  # (n, m, c)
    by_volume: Array = np.array(of_volumes).reshape(-1, *by_scan.shape[1:])
    return by_scan.swapaxes(0, 1), by_volume.swapaxes(0, 1)


def _volume(scan: ScanFile) -> str:
    return scan.place.volume if scan.place else ""


def _of_volume(slices: Sequence[_Judged]) -> list[Array]:
    found = evaluation.of_volume(
        np.stack([each.predicted for each in slices]),
        np.stack([each.true for each in slices]),
        [each.place.index for each in slices],
        slices[0].place.spacing,
    )
    return [*found.values()]


def summaries(scores: Mapping[str, Array], held: Sequence[ScanFile]) -> dict[str, Any]:
    """Return the scores by volume for the record of a run; nothing without volumes.

    Args:
        scores: Of each metric, shape (networks, v, c), in the order of the volumes in `held`.
        held: The scans that were scored.

    Returns:
        For each metric M `volume_M`, the mean over volumes of the mean over classes; and `volumes`:
        by name, the number of judged slices and the scores of each class by metric, null for a
        class that is neither drawn nor predicted.
    """
    slices = Counter(filter(None, map(_volume, held)))
    if not slices:
        return {}
    told: dict[str, Any] = {
        BY_METRIC[name]: float(METRICS[name].mean(of).mean()) for name, of in scores.items()
    }
    means = {name: evaluation.mean(of, empty=np.nan, axis=0) for name, of in scores.items()}
    told["volumes"] = {
        volume: {
            "slices": slices[volume],
            **{name: [*map(_number, of[place])] for name, of in means.items()},
        }
        for place, volume in enumerate(slices)
    }
    return told


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
