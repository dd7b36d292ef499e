"""A label volume: the masks of slices, put back into the grid of their volume."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ExportError
from backend.exchange.export.files import Files
from backend.exchange.export.masks import Drawn
from backend.exchange.export.source_grids import nifti_of
from backend.imaging.manifest import Volume

Labels = npt.NDArray[np.uint8 | np.uint16]
_TEXTS = ("data_type", "db_name", "descrip", "aux_file", "intent_name")  # of a NIfTI header


def numbered(drawn: Drawn, classes: int) -> Labels:
    """Return a label map, shape `drawn.size`: 0 is background, class i of the interface is i + 1.

    Where classes overlap, the last of them in the interface covers the others.
    """
    found = np.zeros(drawn.size, kind_for(classes))
    for number, plane in enumerate(drawn.classes(), start=1):
        found[plane] = number
    return found


def put_together(volume: Volume, drawn: Sequence[Drawn], classes: int, unlabelled: int) -> Labels:
    """Return the label volume in the grid of the source.

    Args:
        volume: Of the manifest.
        drawn: The masks of slices, at the size of their pictures.
        classes: Number of classes.
        unlabelled: The value of all voxels in slices that are not in `drawn`.
    """
    grid = np.full(volume.shape, unlabelled, kind_for(max(classes, unlabelled)))
    for each in drawn:
        plane, place = volume.plane, volume.plane.cut(grid, each.scan.index)
        place[...] = 0
        for number, mask in enumerate(each.classes(), start=1):
            place[plane.back(mask)] = number
    return grid


def kind_for(most: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds values up to `most`."""
    return np.uint8 if most <= np.iinfo(np.uint8).max else np.uint16


def write_nifti(name: str, values: npt.NDArray[Any], volume: Volume, files: Files) -> None:
    """Write a volume as .nii.gz that lies where its source lies.

    The header is that of the source, if it is a NIfTI file that is still there: programs choose
    differently between the two affines of such a header. Else the affine is the manifest's.
    """
    import nibabel

    header = _header(volume)
    if header is None:
        image: Any = nibabel.nifti1.Nifti1Image(  # type: ignore[no-untyped-call]
            values, np.array(volume.affine)
        )
        image.header.set_xyzt_units("mm")
    else:
        header.set_data_dtype(values.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        image = nibabel.nifti1.Nifti1Image(values, None, header)  # type: ignore[no-untyped-call]
    files.write(name, lambda file: file.write(packed(image.to_bytes())))


def packed(data: bytes) -> bytes:
    """Return bytes as gzip; equal bytes give equal files, whatever the time."""
    return gzip.compress(data, compresslevel=4, mtime=0)


def _header(volume: Volume) -> Any:
    """Return the header of a NIfTI source without its text; None for another or a missing source.

    The text may hold a patient's name.
    """
    if volume.kind != "nifti":
        return None
    try:
        header = nifti_of(volume).header.copy()
    except ExportError:
        return None
    header.set_data_shape(volume.shape)
    header.extensions.clear()
    for field in _TEXTS:
        header[field] = b""
    return header
