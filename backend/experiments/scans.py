"""Scans of a labelled folder with their masks, before they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.imaging.pixels import Pixels

Masks = npt.NDArray[np.bool_]
Spacing = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan of the folder, at its original size.

    Attributes:
        image: Shape (h, w) or (h, w, 3), in [0, 1].
        masks: One for each class, shape (c, h, w).
        spacing: Height and width of a pixel in mm; None if unknown.
    """

    image: Pixels
    masks: Masks
    spacing: Spacing | None = None


@dataclass(frozen=True)
class ScanReader:
    """The name of a scan, the function that reads it, and the volume whose slice it is, if any."""

    name: str
    read: Callable[[], Scan]
    volume: str = ""


@dataclass(frozen=True)
class Dataset:
    """A labelled folder.

    Attributes:
        labels: Names of the classes, in the order of the masks.
        scans: Readers of the scans.
        patients: Patient (or volume) by scan name; "" or absent if a scan stands for itself.
    """

    name: str
    labels: tuple[str, ...]
    scans: tuple[ScanReader, ...]
    patients: Mapping[str, str]
