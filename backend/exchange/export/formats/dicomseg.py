"""DICOM Segmentation: a file for each DICOM series, which viewers lay over the images it names.

Source: https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_A.51.html. highdicom
writes it: patient, study and frame of reference are those of the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread, uid

from backend import __version__
from backend.errors import ExportError
from backend.exchange.export.cases import Case
from backend.exchange.export.files import Files
from backend.exchange.export.formats.format import Context, Note, Written
from backend.exchange.export.masks import ANNOTATORS, Drawn
from backend.exchange.export.source_grids import dicom_files
from backend.imaging import dicom
from backend.imaging.manifest import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

MAKER = "Firstlight"
SERIES_NUMBER = 300  # viewers list series by number: after those of the scanner
_LONGEST = 64  # characters of a text (value representation LO)
_UTF_8 = "ISO_IR 192"  # classes may be named in any script, whatever the source is written in
# The standard wants these elements, empty where nothing is known; tools that take names and dates
# out of files often drop them.
_MAY_BE_EMPTY = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "ReferringPhysicianName",
    "StudyDate",
    "StudyID",
    "StudyTime",
)

Frames = npt.NDArray[np.bool_]  # (n, rows, columns, c)


class DicomSeg:
    """Writes CASE.dcm, with a segment for each class; segments may overlap."""

    by_volume, by_scan = True, False
    one_class = False

    def __init__(self, context: Context) -> None:
        self._classes = context.classes

    def write(self, case: Case, drawn: Sequence[Drawn], validation: bool, files: Files) -> Note:
        """Write the segmentation of a DICOM series; it names the images that are labelled."""
        volume = case.volume
        if volume is None or volume.kind != "dicom":
            kind = volume.kind if volume else "single picture"
            raise ExportError(
                f"its source is no DICOM series but {kind}.", "Export it as nifti, nnunet or png."
            )
        sources, frames = _placed(volume, drawn, len(self._classes))
        origins = {each.origin for each in drawn}
        made = _segmentation(sources, frames, _described(self._classes, origins), origins)
        files.write(f"{case.name}.dcm", made.save_as)
        return {}

    def finish(self, cases: Iterable[Written], files: Files) -> list[str]:
        """Write nothing more; say that the files name the patient."""
        return [
            "The segmentations hold the patient's name and id as their series do: viewers find "
            "the images of a segmentation by them."
        ]


def _placed(volume: Volume, drawn: Sequence[Drawn], classes: int) -> tuple[list[Dataset], Frames]:
    """Return the headers of the labelled images, and their masks in the order of the images.

    Of a file with several frames it is one header, and a mask for each frame, empty where nobody
    labelled it.
    """
    found = dicom_files(volume)
    headers: dict[str, Dataset] = {}
    masks: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
    for each in drawn:
        source = found[each.scan.index]
        key = str(source.path)
        if key not in headers:
            headers[key] = _header(source.path, volume.spacing[2])
        # The grid counts columns first, an image of DICOM rows.
        planes = [volume.plane.back(mask).T for mask in each.classes()]
        masks[key, source.frame or 0] = np.stack(planes, axis=-1)
    rows, columns = volume.shape[1], volume.shape[0]
    if len(headers) > 1 or not next(iter(headers.values())).get("NumberOfFrames"):
        return [*headers.values()], np.stack([*masks.values()])
    [(key, header)] = headers.items()
    frames = np.zeros((int(header.NumberOfFrames), rows, columns, classes), bool)
    for (_, number), mask in masks.items():
        frames[number] = mask
    return [header], frames


def _described(classes: Sequence[str], origins: set[str]) -> list[SegmentDescription]:
    """Return a description of each class. A class of a project has no code of a terminology."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    kinds = SegmentAlgorithmTypeValues
    versions = sorted(origins - {ANNOTATORS})
    if not versions:
        kind = kinds.MANUAL
    else:
        kind = kinds.SEMIAUTOMATIC if ANNOTATORS in origins else kinds.AUTOMATIC
    algorithm = (
        AlgorithmIdentificationSequence(
            name=MAKER,
            family=codes.DCM.ArtificialIntelligence,
            version=", ".join(versions)[:_LONGEST],
        )
        if versions
        else None
    )
    # A backslash divides values in DICOM.
    names = [name.replace("\\", "/")[:_LONGEST] for name in classes]
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=CodedConcept(
                value=f"CLASS-{number}", scheme_designator="99FIRSTLIGHT", meaning=name
            ),
            algorithm_type=kind,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(names, start=1)
    ]


def _header(path: Path, between: float) -> Dataset:
    """Return the header of an image, with what a segmentation needs.

    An image that says no thickness is as thick as slices are apart.
    """
    with dicom.silent():
        header = dcmread(path, stop_before_pixels=True)
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if "ImagePositionPatient" in header and not header.get("SliceThickness"):
        header.SliceThickness = between
    return header


def _segmentation(
    sources: Sequence[Dataset],
    frames: Frames,
    segments: Sequence[SegmentDescription],
    origins: set[str],
) -> Any:
    """Return the file. Its UIDs follow from what is drawn on which images, by people or a model.

    Raises:
        ExportError: If the headers of the source lack what a segmentation needs.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues

    content = hashlib.sha256(np.packbits(frames).tobytes()).hexdigest()
    names = [segment.segment_label for segment in segments]
    images = [str(header.SOPInstanceUID) for header in sources]
    # An unchanged draft is the model's mask and a person's: two instances with equal pixels.
    unique = [*images, *names, *sorted(origins), content]
    try:
        return Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=uid.generate_uid(entropy_srcs=["series", *unique]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uid.generate_uid(entropy_srcs=["instance", *unique]),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=__version__,
            device_serial_number="0",
            specific_character_set=_UTF_8,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"the headers of its DICOM files do not suffice for a segmentation ({error}).",
            "Export it as nifti or nnunet.",
        ) from None
