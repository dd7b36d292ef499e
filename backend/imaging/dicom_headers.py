"""The headers of DICOM files: which images they hold, of which series, and where these lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from backend.errors import ImageError
from backend.imaging import decode, dicom, digests
from backend.imaging.planes import Array

_ELEMENTS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_NOT_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "SR", "PR", "KO"}  # labels, doses, reports
_VIDEO = ("MPEG", "HEVC")


@dataclass(frozen=True, eq=False)
class Header:
    """One frame of a DICOM file.

    Attributes:
        sop_instance: The SOPInstanceUID; a hash of the file if it has none.
        number: Of the frame, from 0; None if the file has one frame.
        position: Shape (3,), of the first pixel's centre, in mm; None if unknown.
        orientation: Shape (2, 3), directions of a row and of a column; None if unknown.
        spacing: Between rows and between columns, in mm; None if unknown.
        kept: Values of the elements that shall be kept, by keyword.
    """

    path: Path
    series: str
    sop_instance: str
    instance: int
    series_number: str
    modality: str
    shape: tuple[int, int]  # rows, columns
    kind: str  # photometric interpretation
    number: int | None
    position: Array | None
    orientation: Array | None
    spacing: tuple[float, float] | None
    thickness: float | None
    kept: dict[str, str]


def read(path: Path, keep: Sequence[str] = ()) -> list[Header]:
    """Return the frames of a DICOM file; none if it holds no image.

    Args:
        path: The file; no pixel is read.
        keep: Keywords of elements whose values are kept.

    Raises:
        ImageError: If the file is damaged, or holds a video.
    """
    try:
        with dicom.silent():
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=[*_ELEMENTS, *keep])
            if not dataset.get("Rows") or dataset.get("Modality") in _NOT_IMAGES:
                return []
            _check_no_video(path, dataset)
            return list(_frames(path, dataset, keep))
    except (BytesLengthException, InvalidDicomError, *decode.DAMAGED):
        raise ImageError(
            f"{path.name} is a damaged DICOM file.", "Export or copy it again."
        ) from None


def _check_no_video(path: Path, dataset: Dataset) -> None:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.name.startswith(_VIDEO):
        raise ImageError(
            f"{path.name} holds a video ({syntax.name}).",
            f"Save its frames as pictures: `gdcmraw -i {path.name} -o video.mp4`, then "
            "`ffmpeg -i video.mp4 frame-%04d.png`.",
        )


def _frames(path: Path, dataset: Dataset, keep: Sequence[str]) -> Iterator[Header]:
    count = int(dataset.get("NumberOfFrames") or 1)
    sop_instance = str(dataset.get("SOPInstanceUID") or digests.of_file(path))
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    kept = {name: _text(dataset[name].value) for name in keep if name in dataset}
    for number in range(count):
        groups = [each[number], shared] if number < len(each) else [shared]
        spacing = _floats(groups, dataset, "PixelMeasuresSequence", "PixelSpacing", 2)
        if spacing is None:
            spacing = _numbers(dataset.get("ImagerPixelSpacing"), 2)
        orientation = _floats(
            groups, dataset, "PlaneOrientationSequence", "ImageOrientationPatient", 6
        )
        thickness = [dataset.get("SpacingBetweenSlices"), dataset.get("SliceThickness")]
        yield Header(
            path=path,
            series=str(dataset.get("SeriesInstanceUID") or sop_instance),
            sop_instance=sop_instance,
            instance=int(dataset.get("InstanceNumber") or 0),
            series_number=str(dataset.get("SeriesNumber") or ""),
            modality=str(dataset.get("Modality") or ""),
            shape=(int(dataset.Rows), int(dataset.Columns)),
            kind=str(dataset.get("PhotometricInterpretation") or ""),
            number=number if count > 1 else None,
            position=_floats(groups, dataset, "PlanePositionSequence", "ImagePositionPatient", 3),
            orientation=None if orientation is None else orientation.reshape(2, 3),
            spacing=None if spacing is None or min(spacing) <= 0 else (spacing[0], spacing[1]),
            thickness=next((float(side) for side in thickness if side and float(side) > 0), None),
            kept=kept,
        )


def _floats(
    groups: Sequence[Dataset], dataset: Dataset, sequence: str, name: str, number: int
) -> Array | None:
    """Return an element of a frame: from its own groups, the shared ones, or the file."""
    for group in groups:
        for item in group.get(sequence) or []:
            if (values := _numbers(item.get(name), number)) is not None:
                return values
    return _numbers(dataset.get(name), number)


def _numbers(value: Any, number: int) -> Array | None:
    """Return so many finite numbers as an array; None if the element holds anything else."""
    if value is None or isinstance(value, str) or len(value) != number or "" in value:
        return None
    values = np.array([float(one) for one in value])
    return values if np.isfinite(values).all() else None


def _text(value: Any) -> str:
    return "\\".join(map(str, value)) if isinstance(value, list) else str(value)
