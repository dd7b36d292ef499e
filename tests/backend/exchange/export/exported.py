"""Projects to export, and what is exported of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from backend.exchange.export.masks import Merging
from backend.exchange.export.running import Choice, Export, Report
from backend.imaging import digests
from backend.imaging import manifest as manifests
from backend.imaging.manifest import Manifest, Volume
from backend.imaging.planes import Plane
from backend.label_studio import labels
from backend.rounds.services import Services
from tests.backend.conftest import the
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.imaging.shown import shown_mask

TWO = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
    '<Label value="Lung"/><Label value="Heart"/></BrushLabels></View>'
)
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]


def regions(*masks: Mask, config: str = TWO) -> list[dict[str, Any]]:
    """Return the result of an annotation that covers these masks, one for each class."""
    return labels.regions(np.stack(masks), labels.parse(config), scores=[1.0] * len(masks))


def export(
    services: Services,
    project: int,
    folder: Path,
    to: str,
    *,
    masks: Any = "submitted",
    merging: Merging = "majority",
    imported: Path | None = None,
) -> Report:
    choice = Choice(to, masks, merging)
    return Export(services, the(services.store, project), choice, folder, imported).run()


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files of an export that people see, by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if not path.name.startswith(".")
    }


# -- volumes --------------------------------------------------------------------------------------


def affine_of(axes: Sequence[int], signs: Sequence[int], spacing: Sequence[float]) -> Array:
    """Return an affine whose grid axes run along these axes of the body, in these directions."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign, step) in enumerate(zip(axes, signs, spacing, strict=True)):
        affine[axis, column] = sign * step
    affine[:3, 3] = (-11.5, 20.25, 3.0)
    return affine


ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def a_volume(plane: Plane, depth: int, affine: Array, path: Path) -> Volume:
    """Return what the manifest says of a NIfTI file, all of whose slices are tasks."""
    shape = list(plane.grid_shape)
    shape.insert(plane.axis, depth)
    name = path.name.removesuffix(".nii.gz")
    slices = [
        {"index": index, "picture": f"{name}/{index}.png", "picture_hash": "1" * 64}
        for index in range(depth)
    ]
    return Volume.model_validate(
        {
            "name": name,
            "root": str(path.parent),
            "source": path.name,
            "kind": "nifti",
            "source_hash": digests.of_file(path) if path.exists() else "",
            "shape": shape,
            "affine": np.float32(affine).tolist(),
            "spacing": (1.0, 1.0, 1.0),
            "plane": plane,
            "slices": slices,
        }
    )


@dataclass
class Imported:
    """A NIfTI volume that was imported: its file, its labels, and its task for each slice."""

    volume: Volume
    labels: npt.NDArray[np.uint8]  # (grid), 0 background, 1 Lung, 2 Heart
    tasks: dict[int, int]  # by slice

    def masks(self, index: int) -> list[Mask]:
        """Return what an annotator draws on a slice, as it is shown."""
        drawn = self.volume.plane.cut(self.labels, index)
        return [shown_mask(self.volume.plane, drawn == number) for number in (1, 2)]


def an_import(
    fake: FakeLabelStudio,
    project: int,
    folder: Path,
    values: Array,
    drawn: npt.NDArray[np.uint8],
    *,
    affine: Array,
    plane: Plane,
    name: str = "volume-1",
) -> Imported:
    """Save a volume as NIfTI and make a task of every slice."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine), path)  # type: ignore[no-untyped-call]
    tasks = {}
    for index in range(values.shape[plane.axis]):
        shown = plane.show(plane.cut(values, index)).astype(np.float64)
        tasks[index] = fake.add_task(
            project, shown / max(values.max(), 1), volume=name, slice=index
        )
    volume = a_volume(plane, values.shape[plane.axis], affine, path)
    return Imported(volume, drawn, tasks)


def published(folder: Path, first: int | None = None) -> Iterator[tuple[Volume, Array]]:
    """Yield the first volumes of a folder with images/ and labels/, and their labels.

    Slices are cut across the longest side of a voxel.
    """
    for path in sorted((folder / "images").glob("*.nii.gz"))[:first]:
        image: Any = nibabel.load(path)
        drawn: Any = nibabel.load(folder / "labels" / path.name)
        values = np.asarray(drawn.dataobj).astype(np.uint8)
        axis = int(np.argmax(image.header.get_zooms()))
        height, width = (side for number, side in enumerate(values.shape) if number != axis)
        plane = Plane(axis, True, True, False, (height, width), (width, height))
        yield a_volume(plane, values.shape[axis], image.affine, path), values


def save_manifest(project: int, folder: Path, *volumes: Volume) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    manifests.save(
        Manifest(
            project=project,
            label_studio="http://label-studio",
            created="2026-11-30T00:00:00+00:00",
            window="percentile",
            folder=str(folder.resolve()),
            volumes=volumes,
        )
    )
    return folder
