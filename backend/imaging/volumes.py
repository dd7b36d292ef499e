"""A volume that can be read slice by slice, whatever kind of file it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backend.imaging.planes import Array, Plane

Kind = Literal["nifti", "dicom", "tiff", "picture"]
Affine = Array  # (4, 4): voxel to mm, axes to the right, to the front and to the head


@dataclass(frozen=True)
class SliceFile:
    """The DICOM file of a slice, and its frame if the file has several, from 0."""

    path: Path
    sop_instance: str
    frame: int | None = None


@dataclass(frozen=True)
class Volume:
    """A volume, of which only headers were read; a single picture is a volume of one slice.

    Attributes:
        kind: Of its files.
        source: Its file; for a DICOM series the folder of its files.
        title: What people know it by: the file's name without ending, or that of the series.
        identity: What stays the same wherever its files lie: a DICOM UID, or a hash.
        digest: SHA-256 of the file; for DICOM, of the hashes of its files.
        shape: Of the grid, without time and colour.
        affine: Shape (4, 4), voxel to mm as in NIfTI.
        spacing: Of voxels, along the axes of the grid, in mm.
        has_spacing: False if the source says no spacing; 1 mm stands for it.
        frame: The volume of a source with several (4-D), from 0.
        plane: How its slices are shown.
        read: Returns the values of a slice, in the grid's order: shape (a, b), or (a, b, 3) uint8
            in colour.
        present: The indices that have a slice; others are missing in the source.
        windowed: False if values are bytes that a browser shows as they are.
        inverted: Whether low values are shown bright.
        files: The DICOM file of each present index.
        tags: Values of the DICOM elements that shall be kept, by keyword.
        notes: What a person should know of it, a sentence each.
    """

    kind: Kind
    source: Path
    title: str
    identity: str
    digest: str
    shape: tuple[int, int, int]
    affine: Affine
    spacing: tuple[float, float, float]
    plane: Plane
    read: Callable[[int], Array]
    present: tuple[int, ...]
    has_spacing: bool = True
    frame: int | None = None
    windowed: bool = True
    inverted: bool = False
    files: Mapping[int, SliceFile] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of slices of the grid, with those that are missing in the source."""
        return self.shape[self.plane.axis]
