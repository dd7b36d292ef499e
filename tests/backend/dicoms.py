"""DICOM files of our own making, for tests."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

PATIENT = "Doe^Jane"


def dataset(values: npt.NDArray[Any], **elements: Any) -> Dataset:
    """A DICOM image of (h, w), (h, w, 3) or (frames, h, w) values, uncompressed."""
    colour = values.ndim == 3 and values.shape[-1] == 3
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3"
    made.PatientName, made.PatientID, made.Modality = PATIENT, "ID-4711", "OT"
    made.Rows, made.Columns = values.shape[:2] if colour else values.shape[-2:]
    if values.ndim == 3 and not colour:
        made.NumberOfFrames = len(values)
    made.SamplesPerPixel = 3 if colour else 1
    made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = 8 * values.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    made.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def written(made: Dataset) -> bytes:
    """Return it as a file with preamble and header."""
    file = BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def bare(made: Dataset, *, implicit: bool) -> bytes:
    """Return it as older files are, without preamble and header."""
    del made.file_meta
    file = BytesIO()
    dcmwrite(file, made, implicit_vr=implicit, little_endian=True)
    return file.getvalue()


def packed(values: npt.NDArray[Any], kind: str, syntax: str, **options: Any) -> Dataset:
    """A DICOM image whose frame Pillow compressed; the frame alone carries its own size."""
    interpretation = options.pop("interpretation", "MONOCHROME2")
    frame = BytesIO()
    Image.fromarray(values).save(frame, kind, **options)
    return holding(values, frame.getvalue(), syntax, interpretation)


def holding(
    values: npt.NDArray[Any], frame: bytes, syntax: str, interpretation: str = "MONOCHROME2"
) -> Dataset:
    """A DICOM image of the size of `values` with some bytes as its compressed frame."""
    made = dataset(values, PhotometricInterpretation=interpretation)
    made.file_meta.TransferSyntaxUID = uid.UID(syntax)
    made.PixelData = encapsulate([frame])
    made["PixelData"].is_undefined_length = True
    return made
