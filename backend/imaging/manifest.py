"""The manifest of an import: which voxel of which file each pixel of a task comes from.

It lies as `manifest.json` in the folder of the slices that were written for a project. Masks find
their way back into the source's grid by the manifest alone; the slices are not needed for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend import __version__
from backend.errors import ConfigError
from backend.imaging.planes import Plane
from backend.settings import Settings
from backend.storage import artifacts

MANIFEST = "manifest.json"
IMPORTS = "imports"  # the folder of the projects' folders
FORMAT: Literal[1] = 1
# Keys of task data. A slab has no `image`: its pages are its `slices`.
IMAGE, VOLUME, SLICE, NEIGHBOURS, PAGES = "image", "volume", "slice", "slices", "pages"

Row = tuple[float, float, float, float]
Affine = tuple[Row, Row, Row, Row]


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slice(_Written):
    """One slice of a volume that was written as a picture.

    Attributes:
        index: Its place along the axis that the volume's plane cuts, from 0.
        picture: Path of the picture, relative to the manifest's `pictures`.
        picture_hash: SHA-256 of the picture's file.
        is_task: Whether the slice is a task or a page of a slab; else it is shown beside others
            only.
        url: Address of the picture in Label Studio.
        file: The DICOM file, relative to the volume's `root`; else "".
        frame: The frame of a DICOM file with several frames, from 0.
        sop_instance: The SOPInstanceUID of the DICOM file; else "".
    """

    index: int = Field(ge=0)
    picture: str
    picture_hash: str
    is_task: bool = True
    url: str = ""
    file: str = ""
    frame: int | None = None
    sop_instance: str = ""


class Volume(_Written):
    """A volume (or a single picture, as a volume of one slice) and its slices.

    Attributes:
        name: The pseudonym that stands in task data, stable over imports.
        root: The folder that was imported, as an absolute path.
        source: The file, or for a DICOM series its folder, relative to `root`.
        source_hash: SHA-256 of the file; for a DICOM series, of the hashes of its files.
        shape: Of the grid, without time and colour. values[i, j, k] lies at affine @ (i, j, k, 1).
            In DICOM and pictures i counts columns, j rows, and k slices, frames or pages.
        affine: Voxel to mm, axes to the right, to the front and to the head, as in NIfTI.
        spacing: Size of a voxel along the axes of the grid, in mm.
        has_spacing: False if the source says no spacing; 1 mm stands for it.
        frame: The volume of a source with several (4-D), from 0; else None.
        plane: How slices become pictures.
        slices: Those with a picture, by rising index.
        slabs: The indices of the pages of each task; none where a task is a slice.
    """

    name: str
    root: str
    source: str
    kind: Literal["nifti", "dicom", "tiff", "picture"]
    source_hash: str
    shape: tuple[int, int, int]
    affine: Affine
    spacing: tuple[float, float, float]
    has_spacing: bool = True
    frame: int | None = None
    plane: Plane
    slices: tuple[Slice, ...]
    slabs: tuple[tuple[int, ...], ...] = ()

    @property
    def tasks(self) -> list[tuple[int, ...]]:
        """The indices of the slices that each task shows to be drawn on: one, or a slab's."""
        return [*self.slabs] or [(one.index,) for one in self.slices if one.is_task]

    @property
    def shown_spacing(self) -> tuple[float, float, float]:
        """Size in mm of what a pixel of a picture shows: between slices, down, across."""
        plane, spacing = self.plane, self.spacing
        first, second = (axis for axis in range(3) if axis != plane.axis)
        rows, columns = (second, first) if plane.transposed else (first, second)
        (height, width), (shown_height, shown_width) = plane.turned_shape, plane.shown_shape
        return (
            spacing[plane.axis],
            spacing[rows] * height / shown_height,
            spacing[columns] * width / shown_width,
        )


class Manifest(_Written):
    """What was imported into a project.

    Attributes:
        project: The project's id in Label Studio.
        label_studio: The address of Label Studio.
        created: When the first volume was imported, ISO 8601 in UTC.
        window: As it was asked for: a preset, or LEVEL/WIDTH.
        slab: Slices of a task at most; 1 unless tasks are slabs.
        folder: The folder that the manifest was written in, as an absolute path.
        pictures: The folder of the pictures: the same one, or one that Label Studio serves.
        volumes: In the order of their import.
    """

    format: Literal[1] = FORMAT
    firstlight: str = __version__
    project: int
    label_studio: str
    created: str
    window: str
    layout: Literal["slices"] = "slices"
    slab: int = Field(default=1, ge=1)
    folder: str
    pictures: str = ""
    volumes: tuple[Volume, ...] = ()

    def volume(self, name: object) -> Volume | None:
        """Return the volume with the name that stands in a task's data, if it was imported."""
        return next((volume for volume in self.volumes if volume.name == name), None)


def middle(pages: Sequence[int]) -> int:
    """Return the slice by which a task is known: its own, or the middle page of a slab."""
    return pages[len(pages) // 2]


def rows_of(affine: npt.NDArray[Any]) -> Affine:
    """Return a (4, 4) array as the manifest holds it."""
    one, two, three, four = ((a, b, c, d) for a, b, c, d in affine.astype(float).tolist())
    return one, two, three, four


def default_folder(settings: Settings, project: int) -> Path:
    """Return the folder of a project's slices and manifest, unless another is chosen."""
    return settings.imports_root / IMPORTS / str(project)


def save(manifest: Manifest) -> None:
    """Write a manifest into its folder, whole or not at all.

    Raises:
        StorageError: If the disk is full or the folder cannot be written.
    """
    fields = manifest.model_dump(mode="json")
    artifacts.write_json(
        Path(manifest.folder) / MANIFEST, {**fields, "checksum": _checksum(fields)}
    )


def load(folder: Path) -> Manifest:
    """Return the manifest in a folder.

    Raises:
        ConfigError: If there is none, or it is damaged, was edited, or is of another release.
    """
    path = folder / MANIFEST
    again = "Put the file back from a copy, or import the source into a new project."
    if not path.is_file():
        raise ConfigError(
            f"There is no {MANIFEST} in {folder}.",
            "Name the folder that `import` wrote the slices into; the file lies beside them.",
        )
    found = artifacts.read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: it is no JSON object.", again)
    if found.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has the format {found.get('format')!r}, expected {FORMAT}.",
            "Use the release of Firstlight that wrote it, or a newer one.",
        )
    if found.pop("checksum", None) != _checksum(found):
        raise ConfigError(f"{path} was edited: its checksum is wrong.", again)
    try:
        return Manifest.model_validate(found)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not understood: {_first(error)}.",
            "Use the release of Firstlight that wrote it, or a newer one.",
        ) from None


def check_unmoved(manifest: Manifest, folder: Path) -> None:
    """Raise unless the manifest still lies where its slices were written.

    Label Studio may serve the slices from there, and a second import would write them twice.

    Raises:
        ConfigError: If it was moved.
    """
    if Path(manifest.folder) != folder.resolve():
        raise ConfigError(
            f"{folder / MANIFEST} was moved: it was written in {manifest.folder}.",
            f"Move the whole folder back to {manifest.folder}, and import again.",
        )


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _first(error: ValidationError) -> str:
    problem: Any = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
