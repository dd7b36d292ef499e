"""The values of imported volumes, read again from the files that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ConfigError, ExportError, FirstlightError
from backend.imaging import digests, nifti, volumes
from backend.imaging.manifest import Volume
from backend.imaging.planes import Array
from backend.imaging.sources import Contents, Reading, contents


def source_of(volume: Volume) -> Path:
    """Return the file, or the folder of a DICOM series, that a volume was imported from.

    Raises:
        ExportError: If it is not there any more.
    """
    path = Path(volume.root) / volume.source
    if not path.exists():
        raise ExportError(
            f"its source is not at {path} any more.",
            "Put the source back where it was imported from.",
        )
    return path


def nifti_of(volume: Volume) -> Any:
    """Return the NIfTI file that a volume was imported from, opened with nibabel.

    Raises:
        ExportError: If it is gone, damaged, or has changed since its import.
    """
    path = source_of(volume)
    if digests.of_file(path) != volume.source_hash:
        raise _changed(path)
    try:
        return nifti.opened(path)
    except ConfigError as error:
        raise ExportError(error.what, error.fix) from None


def grid_of(volume: Volume) -> Array:
    """Return the values of a volume in its grid, int16 if that holds them, else float32.

    Slices that are missing in the source hold the lowest value of the others.

    Raises:
        ExportError: If the source is gone, has changed since its import, or is in colour.
        ImageError: If a slice cannot be read.
    """
    source = _opened(volume)
    grid = np.full(volume.shape, np.nan, np.float32)
    for index in source.present:
        values = source.read(index)
        if values.ndim != 2:
            raise ExportError("its slices are in colour.", "Export it as png, coco or yolo.")
        volume.plane.cut(grid, index)[...] = values
    missing = np.isnan(grid)
    grid[missing] = grid[~missing].min(initial=np.inf) if not missing.all() else 0
    whole = np.array_equal(grid, np.rint(grid)) and np.abs(grid).max() <= np.iinfo(np.int16).max
    return grid.astype(np.int16) if whole else grid


def dicom_files(volume: Volume) -> Mapping[int, volumes.SliceFile]:
    """Return the file of each slice of a DICOM series, by its index.

    Raises:
        ExportError: If the source is gone, or has changed since its import.
    """
    return _opened(volume).files


def _opened(volume: Volume) -> volumes.Volume:
    path = source_of(volume)
    most = max(side * other for side in volume.shape for other in volume.shape)
    for source in _contents(path, most, volume.frame).sources:
        try:
            found = source.open()
        except (FirstlightError, OSError):  # another file of the folder, or it has just gone
            continue
        if found.digest == volume.source_hash and found.shape == volume.shape:
            return found
    raise _changed(path)


def _changed(path: Path) -> ExportError:
    return ExportError(
        f"{path} has changed since it was imported.",
        "Put the imported file back, or import the new one into a project of its own.",
    )


@lru_cache(maxsize=1)  # a folder may hold many series, and each volume asks for it
def _contents(path: Path, max_pixels: int, frame: int | None) -> Contents:
    return contents(path, Reading(max_pixels=max_pixels, frame=frame))
