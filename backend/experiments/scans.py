"""Scans of a labelled folder with their masks, before they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from backend.imaging.pixels import Pixels
from model import volumes

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
class VolumeSlice:
    """The place of a scan that is a slice of a volume.

    Attributes:
        volume: Name of the volume; no other volume of the data set has it.
        index: Its place in the volume, from 0.
        spacing: Size of a voxel in mm: between slices, down, across.
    """

    volume: str
    index: int
    spacing: volumes.Spacing

    def scaled(self, down: float, across: float) -> VolumeSlice:
        """Return the place with other pixels, which are so many times as large."""
        depth, height, width = self.spacing
        return replace(self, spacing=(depth, height * down, width * across))


@dataclass(frozen=True)
class ScanReader:
    """The name of a scan, the function that reads it, and its place if it is a slice."""

    name: str
    read: Callable[[], Scan]
    place: VolumeSlice | None = None

    @property
    def volume(self) -> str:
        """The volume whose slice it is, "" if of none."""
        return self.place.volume if self.place else ""


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

    @property
    def has_volumes(self) -> bool:
        """Whether a scan is a slice of a volume."""
        return any(scan.place for scan in self.scans)
