"""The volumes in a folder or file: which files belong together, and which are left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.errors import ConfigError, FirstlightError
from backend.imaging import decode, nifti
from backend.imaging.volumes import Volume

_TIFFS = (".tif", ".tiff")
_PICTURES = tuple(ending for ending in decode.PICTURES if ending not in (*_TIFFS, ".dcm"))
_BFCONVERT = "bfconvert IN OUT.ome.tif"
_SITK = (
    "python -c \"import SimpleITK as s; s.WriteImage(s.ReadImage('IN'), 'OUT.nii.gz')\" "
    "(pip install SimpleITK)"
)
_CONVERT = {  # files that others read, and the command that makes files which we read
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), _SITK),
    **dict.fromkeys((".mgz", ".mgh"), "mri_convert IN OUT.nii.gz"),
    **dict.fromkeys((".hdr", ".img"), "nib-convert IN OUT.nii.gz"),
    ".mnc": "mnc2nii IN OUT.nii",
    **dict.fromkeys((".svs", ".ndpi", ".scn", ".mrxs"), "vips copy IN[level=2] OUT.png"),
    **dict.fromkeys((".czi", ".lif", ".nd2", ".oib", ".vsi"), _BFCONVERT),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv"), "ffmpeg -i IN frame-%04d.png"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z"), "7z x IN"),
}


@dataclass(frozen=True)
class Reading:
    """How files become volumes.

    Attributes:
        max_pixels: Larger slices are refused.
        frame: Which volume of a source with several (4-D), from 0.
        keep: Keywords of the DICOM elements whose values are kept.
    """

    max_pixels: int
    frame: int | None = None
    keep: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    """One volume that is not opened yet.

    Attributes:
        path: Its file, or the first one of its series.
        open: Reads its headers; raises a FirstlightError if it cannot be read.
        single: Whether it is one image by itself, as far as its name and headers tell.
    """

    path: Path
    open: Callable[[], Volume]
    single: bool = False


@dataclass(frozen=True)
class Contents:
    """What lies in a folder: volumes, and a sentence for each group of files that is left out."""

    sources: tuple[Source, ...]
    left_out: tuple[str, ...]


def contents(path: Path, reading: Reading) -> Contents:
    """Return the volumes in a file, or in a folder with all below it, sorted by name.

    Of DICOM files the headers are read, to know what belongs together.

    Raises:
        ConfigError: If no file holds an image, or a file may not be read.
    """
    files = [path] if path.is_file() else sorted(_files(path))
    dicoms, sources = [], []
    unknown: Counter[str] = Counter()
    for file in files:
        name = file.name.lower()
        if name.endswith(nifti.ENDINGS):
            sources.append(Source(file, partial(nifti.volume, file, frame=reading.frame)))
        elif name.endswith((*_PICTURES, *_TIFFS)):
            single = name.endswith(_PICTURES)
            sources.append(Source(file, partial(_flat, file, reading), single))
        elif is_dicom(file):
            dicoms.append(file)
        else:
            unknown[file.suffix.lower()] += 1
    series, left_out = _series(dicoms, reading)
    left_out += [_unknown(ending, number) for ending, number in sorted(unknown.items())]
    sources = sorted([*sources, *series], key=lambda source: source.path)
    if not sources:
        raise ConfigError(
            f"{path} holds no image: {' '.join(left_out) or 'the folder is empty.'}",
            "Name a folder with DICOM, NIfTI, TIFF, PNG or JPEG files.",
        )
    return Contents(tuple(sources), tuple(left_out))


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.name != "DICOMDIR":
            yield path


def _flat(path: Path, reading: Reading) -> Volume:
    from backend.imaging import flat_files  # with tifffile, which few sources need

    read = flat_files.tiff if path.suffix.lower() in _TIFFS else flat_files.picture
    return read(path, max_pixels=reading.max_pixels)


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM does, whatever its name.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return bool(decode.DICOM.match(file.read(132)))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}).", "Let this user read the files."
        ) from None


def _series(paths: Sequence[Path], reading: Reading) -> tuple[list[Source], list[str]]:
    """Return the volumes of DICOM files, and sentences about files without an image."""
    if not paths:
        return [], []
    from backend.imaging import dicom_headers, dicom_series  # pydicom is slow to import

    headers, left_out, without = [], [], 0
    for path in paths:
        try:
            found = dicom_headers.read(path, reading.keep)
        except FirstlightError as error:
            left_out.append(str(error))
            continue
        headers += found
        without += not found
    if without:
        left_out.append(f"{without} DICOM files hold no image (reports, contours, segmentations).")
    made = partial(dicom_series.volume, frame=reading.frame, max_pixels=reading.max_pixels)
    return [
        Source(stack.headers[0].path, partial(made, stack), len(stack.headers) == 1)
        for stack in dicom_series.stacks(headers)
    ], left_out


def _unknown(ending: str, number: int) -> str:
    files = f"{number} file{'s'[: number > 1]} ending in {ending or 'nothing'}"
    if command := _CONVERT.get(ending):
        return f"{files} cannot be read; convert with `{command}`."
    return f"{files}: no known image format."
