"""A folder of images becomes files that Label Studio can show."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image

from backend.errors import ConfigError
from backend.imaging import nifti, sources
from backend.imaging.decode import decode
from backend.imaging.pixels import Pixels
from model.phantoms import generate

AS_THEY_ARE = (".png", ".jpg", ".jpeg")  # browsers show these
CONVERTED = (".tif", ".tiff")  # no browser shows these, so Label Studio gets a PNG
READ = "quickstart reads PNG, JPEG, TIFF, DICOM and NIfTI"


@dataclass(frozen=True)
class Image:
    """A file of the folder, and the name under which Label Studio gets it.

    Attributes:
        path: The file.
        name: Unlike the file's own name, it is unique in the folder, and survives an upload.
    """

    path: Path
    name: str

    @property
    def mark(self) -> str:
        """What begins the name and tells the images of the folder apart."""
        return self.name.partition("-")[0]

    def content(self, max_pixels: int) -> bytes:
        """Return the bytes to upload.

        Raises:
            ImageError: If a TIFF cannot be read.
        """
        content = self.path.read_bytes()
        if self.path.suffix.lower() not in CONVERTED:
            return content
        return as_png(decode(content, max_pixels=max_pixels))


def from_folder(folder: Path, *, state: Path | None = None) -> tuple[list[Image], list[Path]]:
    """Return the images in a folder and below it, by name, and the DICOM and NIfTI files.

    If the folder has a folder `images/`, only that is read.

    Args:
        folder: The folder.
        state: Where this service keeps its own files; they are no scans.

    Raises:
        ConfigError: If there are none; it says which kinds are read.
    """
    root = root_of(folder)
    paths = sorted(_files(root, state))
    images = [Image(path, _name(path, root)) for path in paths if _is_image(path)]
    volumes = [path for path in paths if not _is_image(path) and _is_volume(path)]
    if not images and not volumes:
        raise ConfigError(
            f"{root} holds no image that can be imported: {READ}.",
            "Convert the images to PNG, or name another folder.",
        )
    return images, volumes


def root_of(folder: Path) -> Path:
    """Return the folder that is read: `images/` in it, if there is one."""
    return folder / "images" if (folder / "images").is_dir() else folder


def phantoms(count: int, folder: Path, *, seed: int) -> list[Image]:
    """Write synthetic scans into a folder, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, phantom in enumerate(generate(count, size=128, classes=1, seed=seed)):
        (folder / f"phantom-{number:03d}.png").write_bytes(as_png(phantom.image))
    return from_folder(folder)[0]


def as_png(pixels: Pixels) -> bytes:
    """Return an image (h, w) or (h, w, 3) with values in [0, 1] as a PNG of 8 bits."""
    file = BytesIO()
    PIL.Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def batches(images: list[Image], *, files: int, size: int) -> Iterator[list[Image]]:
    """Yield the images in lists of at most so many files and, if several, so many bytes."""
    batch: list[Image] = []
    held = 0
    for image in images:
        bytes_ = image.path.stat().st_size
        if batch and (len(batch) == files or held + bytes_ > size):
            yield batch
            batch, held = [], 0
        batch.append(image)
        held += bytes_
    if batch:
        yield batch


def _files(root: Path, state: Path | None) -> Iterator[Path]:
    for path in root.rglob("*"):
        ours = state is not None and path.resolve().is_relative_to(state.resolve())
        if path.is_file() and not ours:
            yield path


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in (*AS_THEY_ARE, *CONVERTED)


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(nifti.ENDINGS) or sources.is_dicom(path)


def _name(path: Path, root: Path) -> str:
    """Return a name that tells files of equal names in two folders apart."""
    within = path.relative_to(root).as_posix()
    mark = hashlib.sha256(within.encode()).hexdigest()[:10]
    suffix = ".png" if path.suffix.lower() in CONVERTED else path.suffix.lower()
    return f"{mark}-{path.stem[:40]}{suffix}"
