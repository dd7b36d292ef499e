"""TIFF files with pages, and single pictures, as volumes whose slices are shown as they are stored.

Columns run to the left side of the body and rows to its back, as in an axial slice on a screen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import ConfigError
from backend.imaging import decode, digests
from backend.imaging.pixels import check_size
from backend.imaging.planes import Array, Plane
from backend.imaging.volumes import Kind, Volume

_MILLIMETRES = {"micron": 1e-3, "um": 1e-3, "\\u00B5m": 1e-3, "mm": 1.0, "cm": 10.0}

Spacing = tuple[float, float, float]


def picture(path: Path, *, max_pixels: int) -> Volume:
    """Return a single picture; grey of 16 bits is windowed, other pictures are shown as they are.

    Raises:
        ImageError: If it cannot be read, or has more than `max_pixels`.
    """
    values, deep = _picture(path, max_pixels)
    width, height = values.shape[:2]
    volume = _flat(path, "picture", (width, height, 1), lambda _: values)
    return replace(volume, windowed=deep)


def tiff(path: Path, *, max_pixels: int) -> Volume:
    """Return the pages of a TIFF file.

    Raises:
        ConfigError: If it cannot be read, or holds more than one stack of pages.
        ImageError: If a page has more than `max_pixels`.
    """
    layout = _layout(path, max_pixels)
    volume = _flat(path, "tiff", layout.shape, lambda index: _pages(path)[index].swapaxes(0, 1))
    if layout.spacing:
        plane = Plane.facing(_affine(layout.spacing), layout.shape, layout.spacing, 2)
        volume = replace(
            volume,
            spacing=layout.spacing,
            has_spacing=True,
            affine=_affine(layout.spacing),
            plane=plane,
        )
    return replace(volume, windowed=layout.deep, inverted=layout.inverted)


def _flat(
    path: Path, kind: Kind, shape: tuple[int, int, int], read: Callable[[int], Array]
) -> Volume:
    digest = digests.of_file(path)
    unknown = (1.0, 1.0, 1.0)
    return Volume(
        kind=kind,
        source=path,
        title=path.stem,
        identity=digest,
        digest=digest,
        shape=shape,
        affine=_affine(unknown),
        spacing=unknown,
        has_spacing=False,
        plane=Plane.facing(_affine(unknown), shape, unknown, 2),
        read=read,
        present=tuple(range(shape[2])),
        windowed=False,
    )


def _affine(spacing: Spacing) -> Array:
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


def _picture(path: Path, max_pixels: int) -> tuple[Array, bool]:
    """Return a picture's values, columns first, and whether they have more than 8 bits."""
    data = path.read_bytes()
    with decode.refusing(), Image.open(BytesIO(data)) as image:
        check_size(*image.size, max_pixels)
        if image.mode == "F" or image.mode.startswith("I"):
            return np.asarray(image).swapaxes(0, 1), True
    shown = np.rint(255 * decode.decode(data, max_pixels=max_pixels)).astype(np.uint8)
    return shown.swapaxes(0, 1), False


@dataclass(frozen=True)
class _Layout:
    """What the header of a TIFF says of its pages."""

    shape: tuple[int, int, int]  # columns, rows, pages
    spacing: Spacing | None
    inverted: bool
    deep: bool  # grey of more than 8 bits


def _layout(path: Path, max_pixels: int) -> _Layout:
    import tifffile  # slow to import, and needed only here

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            axes = series.axes.removesuffix("S")
            kind = tifffile.PHOTOMETRIC(file.pages.first.photometric)
            _check_pages(path, file, axes, kind.name)
            height, width = series.shape[len(axes) - 2 : len(axes)]
            check_size(width, height, max_pixels)
            pages = int(np.prod(series.shape[: len(axes) - 2]))
            deep = axes == series.axes and series.dtype != np.uint8
            inverted = kind is tifffile.PHOTOMETRIC.MINISWHITE
            return _Layout((width, height, pages), _spacing(file), inverted, deep)
    except (tifffile.TiffFileError, *decode.DAMAGED) as error:
        raise _unreadable(path, error) from None


def _check_pages(path: Path, file: Any, axes: str, kind: str) -> None:
    """Refuse channels and times, pages of several sizes, palettes, and colours of odd types."""
    series = file.series[0]
    several = [side for side in series.shape[: len(axes) - 2] if side > 1]
    if not axes.endswith("YX") or len(several) > 1 or len(file.series) > 1:
        stacks = ", ".join(f"{one.axes} {one.shape}" for one in file.series[:3])
        raise ConfigError(
            f"{path.name} holds {len(file.series)} stacks of pages ({stacks}), expected one stack "
            "of equal pages without channels and times.",
            f"Split it, for example with `tiffsplit {path.name}`.",
        )
    if kind == "PALETTE":
        raise ConfigError(
            f"{path.name} stores colours as a palette.",
            f"Convert it: `magick {path.name} -type TrueColor OUT.tif`.",
        )
    if series.axes.endswith("S") and series.dtype not in (np.uint8, np.uint16):
        raise ConfigError(
            f"{path.name} stores colours as {series.dtype}, expected uint8 or uint16.",
            "Save it with 8 or 16 bits a channel, as integers from 0.",
        )


def _spacing(file: Any) -> Spacing | None:
    """Return the size of a voxel that ImageJ wrote, in mm; other resolutions mean print."""
    known = file.imagej_metadata or {}
    unit = _MILLIMETRES.get(str(known.get("unit", "")))
    tags = file.pages.first.tags
    if unit is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    across, down = (tags[name].value for name in ("XResolution", "YResolution"))
    if not (across[0] and down[0]):
        return None
    depth = float(known.get("spacing") or across[1] / across[0])
    return unit * across[1] / across[0], unit * down[1] / down[0], unit * depth


@lru_cache(maxsize=1)  # the pages of a file are read one after the other
def _pages(path: Path) -> Array:
    """Return the pages, shape (pages, h, w) or, in colour, (pages, h, w, 3) uint8."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            values = series.asarray()
        if not series.axes.endswith("S"):
            return values.reshape(-1, *values.shape[-2:])
        colour = values.reshape(-1, *values.shape[-3:])[..., :3]
        return colour if colour.dtype == np.uint8 else (colour >> 8).astype(np.uint8)
    except (tifffile.TiffFileError, *decode.DAMAGED) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path.name} cannot be read as TIFF ({error}).",
        f"Save it anew, for example with `magick {path.name} OUT.tif`.",
    )
