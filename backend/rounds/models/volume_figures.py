"""What a model is worth on whole held-out volumes, as far as their slices are labelled.

The manifest of an import says which task is which slice, and how large voxels are. A project whose
manifest lies elsewhere has no figures by volume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import FirstlightError
from backend.imaging import manifest as manifests
from backend.storage.records import VolumeScore
from model import volumes
from model.evaluation import METRICS

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SlicePosition:
    """Where a scan lies in its volume.

    Attributes:
        volume: The volume's pseudonym.
        index: Of its slice in the volume.
        spacing: Size in mm of what a pixel of the picture shows: between slices, down, across.
        in_mm: Whether the source says it; else 1 mm stands for it.
        slices: Number of slices of the volume that are tasks.
    """

    volume: str
    index: int
    spacing: volumes.Spacing
    in_mm: bool
    slices: int


@dataclass(frozen=True)
class JudgedSlice:
    """The masks of a held-out slice at working size, as bits: those of all volumes are kept.

    Attributes:
        position: Of the slice.
        pixel: Height and width of a pixel, in pixels of the picture.
        shape: Of the masks, (c, h, w).
    """

    position: SlicePosition
    pixel: tuple[float, float]
    shape: tuple[int, ...]
    predicted: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]

    @classmethod
    def of(
        cls, position: SlicePosition, predicted: Mask, truth: Mask, pixel: tuple[float, float]
    ) -> JudgedSlice:
        """Return a slice with the model's masks and the true ones, shape (c, h, w)."""
        return cls(position, pixel, truth.shape, np.packbits(predicted), np.packbits(truth))


def positions(folder: Path) -> dict[str, SlicePosition]:
    """Return the positions of all imported slices of a folder, by the address of the picture."""
    if not (folder / manifests.MANIFEST).is_file():
        return {}
    try:
        manifest = manifests.load(folder)
    except FirstlightError as error:
        log.warning("no figures by volume: %s", error)
        return {}
    found: dict[str, SlicePosition] = {}
    for volume in manifest.volumes:
        if volume.kind != "picture":
            tasks = sum(each.is_task for each in volume.slices)
            spacing, in_mm = volume.shown_spacing, volume.has_spacing
            for each in volume.slices:
                found[each.url] = SlicePosition(volume.name, each.index, spacing, in_mm, tasks)
    return found


def scores(slices: Iterable[JudgedSlice]) -> list[VolumeScore]:
    """Return the scores of each volume over its judged slices, by name.

    Of a slice that two tasks show one counts. A distance is left out where no spacing is known.
    """
    by_volume: dict[str, dict[int, JudgedSlice]] = {}
    for each in slices:
        by_volume.setdefault(each.position.volume, {})[each.position.index] = each
    return [
        _score([members[index] for index in sorted(members)])
        for _, members in sorted(by_volume.items())
    ]


def _score(slices: Sequence[JudgedSlice]) -> VolumeScore:
    first = slices[0]
    fitting = [each for each in slices if each.shape == first.shape]
    depth, height, width = first.position.spacing
    down, across = first.pixel
    found = {
        metric.name: metric.of_volume(
            _stack(fitting, "predicted"),
            _stack(fitting, "truth"),
            [each.position.index for each in fitting],
            (depth, height * down, width * across),
        )
        for metric in METRICS.values()
        if first.position.in_mm or not metric.unit
    }
    return VolumeScore(
        volume=first.position.volume,
        judged=len(fitting),
        slices=first.position.slices,
        scores={name: float(METRICS[name].mean(of)) for name, of in found.items()},
    )


def _stack(slices: Sequence[JudgedSlice], side: str) -> npt.NDArray[Any]:
    """Return the masks of slices, shape (n, c, h, w)."""
    return np.stack(
        [
            np.unpackbits(getattr(each, side), count=int(np.prod(each.shape)))
            .reshape(each.shape)
            .astype(bool)
            for each in slices
        ]
    )
