"""NIfTI files of labelled folders: the single slices of SynthStrip 2-D, and slices of volumes."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ConfigError
from backend.experiments.scans import Scan, ScanReader, Spacing, VolumeSlice
from backend.imaging import nifti
from backend.imaging.pixels import Pixels, scaled
from model.volumes import Spacing as VoxelSpacing

BRIGHT = 99.5  # percentile of a volume that becomes white: single bright voxels darken all others
TOLERANCE = 1e-3  # mm between affines: programs round them, and store them in two forms

Array = npt.NDArray[Any]


def synthstrip(folder: Path) -> list[ScanReader]:
    """Return the cases of SynthStrip 2-D, one slice each."""

    def read(case: Path) -> Scan:
        image, spacing = _only_slice(case / "image.nii.gz")
        mask, _ = _only_slice(case / "mask.nii.gz")
        _check_shape(case / "mask.nii.gz", mask, image)
        low, high = float(image.min()), float(image.max())
        grey: Pixels = ((image - low) / max(high - low, 1e-6)).astype(np.float32)
        return Scan(grey, mask[None] > 0, spacing)

    cases = sorted(path.parent for path in folder.glob("*/image.nii.gz"))
    return [ScanReader(case.name, partial(read, case)) for case in cases]


def volumes(folder: Path) -> tuple[tuple[str, ...], list[ScanReader]]:
    """Return the classes and all slices of the volumes in images/, with masks in labels/.

    Slices are cut across the axis along which voxels are longest.

    Raises:
        ConfigError: If a volume has no labels, the affines of the two differ, all labels are 0, or
            a file cannot be read.
    """
    paths = sorted(
        path for path in (folder / "images").iterdir() if path.name.endswith(nifti.ENDINGS)
    )
    drawn = [folder / "labels" / path.name for path in paths]
    missing = [path.name for path in drawn if not path.is_file()]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(paths)} volumes in {folder} have no labels, first "
            f"{missing[0]}.",
            "Give each volume in images/ a file of the same name in labels/.",
        )
    classes: set[int] = set()
    slices: list[tuple[Path, Path, VolumeSlice]] = []
    for image, labels in zip(paths, drawn, strict=True):
        planes, spacing = _planes(labels)
        _check_affine(labels, image)
        classes |= {*np.unique(planes.astype(int)).tolist()}
        places = (VolumeSlice(image.name, index, spacing) for index in range(len(planes)))
        slices += [(image, labels, place) for place in places]
    numbers = tuple(sorted(classes - {0}))
    if paths and not numbers:
        raise ConfigError(
            f"All labels of the {len(paths)} volumes in {folder} are 0, which is background.",
            "Give at least one volume labels with a number from 1 on.",
        )
    return tuple(f"label {number}" for number in numbers), [
        ScanReader(
            f"{image.name}/{place.index:03}",
            partial(_slice, image, labels, place.index, numbers),
            place,
        )
        for image, labels, place in slices
    ]


def _slice(image: Path, labels: Path, place: int, classes: tuple[int, ...]) -> Scan:
    planes, spacing = _planes(image)
    drawn, _ = _planes(labels)
    _check_shape(labels, drawn, planes)
    low, high = _window(image)
    masks = np.stack([drawn[place] == number for number in classes])
    return Scan(scaled(planes[place], low, high), masks, spacing[1:])


@lru_cache(maxsize=1)  # the slices of a volume are read one after the other
def _window(path: Path) -> tuple[float, float]:
    planes, _ = _planes(path)
    return float(planes.min()), float(np.percentile(planes, BRIGHT))


@lru_cache(maxsize=2)  # a volume and its labels
def _planes(path: Path) -> tuple[Array, VoxelSpacing]:
    """Return the slices of a volume, shape (n, h, w), and the size of its voxels in mm.

    Slices across the body show the front at the top and the left side on the right; slices along
    the body show the head at the top.
    """
    file = nifti.upright(path)
    zooms = [float(zoom) for zoom in file.header.get_zooms()]
    across = 2 if zooms[2] > 0.99 * max(zooms) else int(np.argmax(zooms))
    column, row = (axis for axis in range(3) if axis != across)
    planes = nifti.values(path, file).transpose(across, row, column)
    return planes if across == 2 else planes[:, ::-1], (zooms[across], zooms[row], zooms[column])


def _only_slice(path: Path) -> tuple[Pixels, Spacing]:
    """Return the only slice of a NIfTI file, head up if its header is right, and its spacing."""
    import nibabel  # slow to import, and needed only here

    file = nifti.opened(path)
    values = nifti.values(path, file)
    volume = values.reshape(values.shape + (1,) * (3 - values.ndim))
    # Make the axes grow to the right, to the front and up, whatever the scanner's order.
    whole = nibabel.nifti1.Nifti1Image(volume, file.affine)  # type: ignore[no-untyped-call]
    upright = nibabel.funcs.as_closest_canonical(whole)  # type: ignore[no-untyped-call]
    shown = [axis for axis, side in enumerate(upright.shape) if side > 1]
    if upright.ndim != 3 or len(shown) != 2:
        raise ConfigError(
            f"{path} has the shape {values.shape}, expected a single slice.",
            "Give the 2-D edition of SynthStrip's data.",
        )
    width, height = (float(upright.header.get_zooms()[axis]) for axis in shown)
    return np.rot90(np.squeeze(upright.get_fdata(dtype=np.float32))), (height, width)


def _check_shape(path: Path, mask: Array, image: Array) -> None:
    if mask.shape != image.shape:
        raise ConfigError(
            f"{path} has a mask of shape {mask.shape}, but its image has {image.shape}.",
            "Save the mask with the shape of its image.",
        )


def _check_affine(labels: Path, image: Path) -> None:
    """Raise unless labels lie where their image lies: each volume is turned by its own affine."""
    found, expected = (np.asarray(nifti.opened(path).affine) for path in (labels, image))
    if not np.allclose(found, expected, atol=TOLERANCE):
        raise ConfigError(
            f"{labels} has the affine {found.round(4).tolist()}, but its image has "
            f"{expected.round(4).tolist()}.",
            "Save the labels with the affine of their image.",
        )
