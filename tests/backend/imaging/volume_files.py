"""Volumes as files of several kinds, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, Sequence, uid

from backend.imaging.planes import Plane
from backend.imaging.volumes import Volume
from tests.backend import dicoms

ABOVE = np.array([0.0, 0.0, 1.0])
ROW, COLUMN = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def volume_of(grid: npt.NDArray[Any], axis: int = 2, **fields: Any) -> Volume:
    """A volume that is read from an array."""
    spacing = fields.pop("spacing", (1.0, 1.0, 1.0))
    affine = np.diag([*spacing, 1.0])
    plane = Plane.facing(affine, grid.shape[:3], spacing, axis)
    given = {
        "kind": "nifti",
        "source": Path("heart.nii.gz"),
        "title": "heart",
        "identity": "heart",
        "digest": "0" * 64,
        "shape": grid.shape[:3],
        "affine": affine,
        "spacing": spacing,
        "plane": plane,
        "read": lambda index: plane.cut(grid, index),
        "present": tuple(range(grid.shape[axis])),
    }
    return Volume(**{**given, **fields})


def save_nifti(path: Path, values: npt.NDArray[Any], affine: npt.NDArray[Any] | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.nifti1.Nifti1Image(values, affine)  # type: ignore[no-untyped-call]
    image.to_filename(path)
    return path


def slice_at(values: npt.NDArray[Any], number: int, **elements: Any) -> Dataset:
    """A slice of a CT series, 2.5 mm above the one before it; pixels of 0.5 mm x 0.75 mm."""
    made = dicoms.dataset(
        values,
        SOPInstanceUID=f"1.2.3.{number}",
        SeriesInstanceUID="1.2.4",
        StudyInstanceUID="1.2.5",
        SeriesNumber=3,
        InstanceNumber=number + 1,
        Modality="CT",
        PixelSpacing=[0.5, 0.75],
        ImageOrientationPatient=[*ROW, *COLUMN],
        ImagePositionPatient=[*(2.5 * number * ABOVE)],
        RescaleSlope=1,
        RescaleIntercept=-1024,
    )
    for name, value in elements.items():
        setattr(made, name, value)
    made.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    return made


def save_dicom(path: Path, made: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicoms.written(made))
    return path


def save_series(folder: Path, grid: npt.NDArray[np.uint16], **elements: Any) -> None:
    """Write slices (n, rows, columns) as files whose names say nothing of their order."""
    for number, values in enumerate(grid):
        save_dicom(folder / f"{(7 * number) % 97:02}.dcm", slice_at(values, number, **elements))


def group(**elements: Any) -> Dataset:
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def enhanced(grid: npt.NDArray[Any], heights: list[float], **elements: Any) -> Dataset:
    """A file with a frame at each height, and the measures of pixels shared."""
    made = dicoms.dataset(
        grid, SOPInstanceUID="1.8", SeriesInstanceUID="1.8.1", Modality="MR", **elements
    )
    measures = group(PixelSpacing=[0.5, 0.5], SliceThickness=2)
    orientation = group(ImageOrientationPatient=[*ROW, *COLUMN])
    made.SharedFunctionalGroupsSequence = Sequence(
        [
            group(
                PixelMeasuresSequence=Sequence([measures]),
                PlaneOrientationSequence=Sequence([orientation]),
            )
        ]
    )
    places = [group(ImagePositionPatient=[*(height * ABOVE)]) for height in heights]
    values = [group(RescaleSlope=2, RescaleIntercept=number) for number in range(len(heights))]
    made.PerFrameFunctionalGroupsSequence = Sequence(
        [
            group(
                PlanePositionSequence=Sequence([place]),
                PixelValueTransformationSequence=Sequence([value]),
            )
            for place, value in zip(places, values, strict=True)
        ]
    )
    return made
