"""The scans of a demo: a folder of images, or phantoms with their exact truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.commands.quickstart.images import as_png
from demo.errors import DemoError
from model.phantoms import generate

Mask = NDArray[np.bool_]
_SUFFIXES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class Scan:
    """One image file and, where it is known, what a perfect annotator would draw on it."""

    name: str
    image_path: Path
    mask: Mask | None  # (h, w)


def from_folder(folder: Path) -> list[Scan]:
    """The PNG and JPEG images of a folder, or of its folder `images/`, in order of their names.

    In a folder `masks/` beside `images/`, a mask of the same name (or the same name with .png) is
    the image's truth; its pixels are 0 or 255.

    Raises:
        DemoError: If there is no image, or a mask does not fit its image.
    """
    images = folder / "images" if (folder / "images").is_dir() else folder
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise DemoError(f"No PNG or JPEG image in {images}.")
    return [Scan(path.name, path, _truth(path)) for path in paths]


def phantoms(count: int, directory: Path, *, seed: int = 0) -> list[Scan]:
    """Synthetic scans written as PNG files into a directory, which is made when missing."""
    directory.mkdir(parents=True, exist_ok=True)
    scans = []
    for number, phantom in enumerate(generate(count, size=128, classes=1, seed=seed)):
        path = directory / f"phantom-{number:03d}.png"
        path.write_bytes(as_png(phantom.image))
        scans.append(Scan(path.name, path, phantom.mask[0]))
    return scans


def _truth(image: Path) -> Mask | None:
    if image.parent.name != "images":
        return None
    masks = image.parent.parent / "masks"
    path = next(
        (mask for mask in (masks / image.name, masks / f"{image.stem}.png") if mask.is_file()), None
    )
    if path is None:
        return None
    with Image.open(image) as scan, Image.open(path) as mask:
        return _binary(np.asarray(mask.convert("L")), scan.size, path)


def _binary(pixels: NDArray[np.uint8], size: tuple[int, int], path: Path) -> Mask:
    if pixels.shape != size[::-1]:
        raise DemoError(f"{path} is {pixels.shape[::-1]} pixels large, but its image is {size}.")
    mask = pixels > 127
    if pixels.any() and not mask.any():
        raise DemoError(f"{path} has values up to {pixels.max()}; a mask is made of 0 and 255.")
    return mask
