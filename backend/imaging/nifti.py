"""NIfTI files: their voxels, and where these lie."""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ConfigError
from backend.imaging import digests
from backend.imaging.planes import Array, Plane, long_axis
from backend.imaging.volumes import Volume

ENDINGS = (".nii", ".nii.gz")
_NO_SPACING = "says no valid spacing"


def opened(path: Path) -> Any:
    """Return a NIfTI file of which only the header was read.

    Raises:
        ConfigError: If the file cannot be read.
    """
    import nibabel  # slow to import, and needed only here

    try:
        return nibabel.nifti1.Nifti1Image.from_filename(path)
    except (
        OSError,
        EOFError,
        zlib.error,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
    ) as error:
        raise _unreadable(path, error) from None


def values(path: Path, file: Any) -> npt.NDArray[np.float32]:
    """Return the values of an opened file; NaN becomes 0, infinity the largest number.

    Raises:
        ConfigError: If the file is cut short or damaged.
    """
    try:
        found: npt.NDArray[np.float32] = np.nan_to_num(file.get_fdata(dtype=np.float32))
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    return found


def upright(path: Path) -> Any:
    """Return an opened volume with axes to the left, to the back and to the head.

    Raises:
        ConfigError: If the file cannot be read, or has not three axes.
    """
    import nibabel

    file = opened(path)
    if file.ndim != 3:
        raise ConfigError(
            f"{path} has the shape {file.shape}, expected a volume with three axes.",
            "Save each volume in a file of its own.",
        )
    known: Any = nibabel.orientations  # nibabel leaves its functions untyped
    turn = known.ornt_transform(known.io_orientation(file.affine), known.axcodes2ornt("LPS"))
    return file.as_reoriented(turn)


def volume(path: Path, *, frame: int | None = None) -> Volume:
    """Return the volume in a file, cut across its longest voxels.

    Args:
        path: A file with two or three axes, or with four and a frame.
        frame: The place along the fourth axis, from 0; ignored if there is none.

    Raises:
        ConfigError: If the file cannot be read, or is no grey volume.
    """
    file = opened(path)
    shape = _shape(path, file)
    if len(shape) < 4:
        frame = None
    elif frame is None or frame >= shape[3]:
        raise ConfigError(
            f"{path.name} holds {shape[3]} volumes (4-D).",
            f"Choose one of them: --frame 0 to --frame {shape[3] - 1}.",
        )
    affine, spacing, notes = _geometry(path, file)
    grid_shape = (shape[0], shape[1], shape[2])
    plane = Plane.facing(affine, grid_shape, spacing, long_axis(spacing, affine))
    digest = digests.of_file(path)
    return Volume(
        kind="nifti",
        source=path,
        title=path.name.removesuffix(".gz").removesuffix(".nii"),
        identity=digest if frame is None else f"{digest}/{frame}",
        digest=digest,
        shape=grid_shape,
        affine=affine,
        spacing=spacing,
        has_spacing=not any(_NO_SPACING in note for note in notes),
        frame=frame,
        plane=plane,
        read=lambda index: plane.cut(_grid(path, frame), index),
        present=tuple(range(grid_shape[plane.axis])),
        notes=notes,
    )


def _shape(path: Path, file: Any) -> tuple[int, ...]:
    """Return the shape with three axes at least, and without later ones of length 1."""
    kind = file.get_data_dtype()
    shape = list(file.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if kind.fields or kind.kind == "c" or len(shape) > 4 or 0 in shape:
        raise ConfigError(
            f"{path.name} holds values of type {kind} in the shape {file.shape}, expected grey "
            "values in three axes.",
            "Save each channel as a NIfTI file of its own, for example with `fslsplit` or nibabel.",
        )
    return tuple(shape) + (1,) * (3 - len(shape))


def _geometry(path: Path, file: Any) -> tuple[Array, tuple[float, float, float], tuple[str, ...]]:
    """Return affine and spacing, with 1 mm for what the header does not say, and notes of it."""
    zooms = _zooms(file)
    affine, notes = np.asarray(file.affine, float), []
    sides = [zoom if np.isfinite(zoom) and zoom > 0 else 1.0 for zoom in zooms]
    if sides != zooms:
        notes.append(f"{path.name} {_NO_SPACING}; 1 mm stands for it.")
    # The inverse of a tiny or wrong affine is useless: masks could not go back by it.
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9):
        affine = np.diag([*sides, 1.0])
    if file.header["sform_code"] == file.header["qform_code"] == 0:
        notes.append(f"{path.name} says no orientation; left and right may be exchanged.")
    return affine, (sides[0], sides[1], sides[2]), tuple(notes)


def _zooms(file: Any) -> list[float]:
    """Return the spacing of three axes as the file says it: nibabel makes a 0 of the header 1."""
    with file.file_map["image"].get_prepare_fileobj("rb") as content:
        header = type(file.header).from_fileobj(content, check=False)
    zooms = [abs(float(zoom)) for zoom in header["pixdim"][1:4]]
    return zooms[: file.ndim] + [1.0] * (3 - file.ndim)


@lru_cache(maxsize=1)  # the slices of a volume are read one after the other
def _grid(path: Path, frame: int | None) -> Array:
    file = opened(path)
    if frame is None:
        grid: Array = values(path, file)
        return grid.reshape(_shape(path, file))
    try:
        return np.nan_to_num(np.asarray(file.dataobj[..., frame], np.float32))
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} cannot be read ({error}).", "Copy the case again.")
