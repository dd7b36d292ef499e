"""Volumes on their way through a real Label Studio: what is drawn on slices is what is exported."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pytest
from pydantic import SecretStr
from pydicom import uid

from backend.commands.quickstart.studio import LabelStudio
from backend.exchange.export.table import NAME, export_table
from backend.imaging.manifest import Volume, default_folder, load
from backend.imaging.planes import Plane
from backend.label_studio import labels
from backend.rounds.services import Services, build
from backend.settings import Settings
from backend.storage.store import open_store
from demo.annotator import Annotator
from tests.backend.conftest import the
from tests.backend.exchange.export import nnunet_rules
from tests.backend.exchange.export.exported import (
    Array,
    a_volume,
    affine_of,
    export,
    published,
    save_manifest,
)
from tests.backend.imaging.shown import shown_mask
from tests.backend.imaging.volume_files import save_dicom, slice_at
from tests.label_studio.commands import run, tasks_of

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(1800)]

# Folders with images/ and labels/ as NIfTI, separated by ":", to be taken instead of small volumes.
FOLDERS = os.environ.get("TEST_VOLUMES", "")
FIRST = int(os.environ.get("TEST_VOLUMES_FIRST", "6"))  # so many volumes of each folder


@dataclass
class Drawn:
    """An imported volume, and its labels as they are drawn."""

    volume: Volume
    labels: Array


class Project:
    """A project in Label Studio whose tasks are slices."""

    def __init__(
        self, annotator: Annotator, services: Services, volumes: Sequence[Drawn], folder: Path
    ) -> None:
        self._annotator, self.services, self.volumes = annotator, services, volumes
        numbers = sorted({int(n) for each in volumes for n in np.unique(each.labels)} - {0})
        self.number = annotator.create_project("volumes", [f"class {n}" for n in numbers])
        self._config = labels.parse(annotator.project(self.number)["label_config"])
        self._classes = numbers
        services.store.projects.request_refresh(self.number)
        self.imported = save_manifest(self.number, folder, *(each.volume for each in volumes))
        self._tasks = self._import()

    def _import(self) -> dict[tuple[str, int], int]:
        """Make a task for each slice; return their ids by volume and slice."""
        rows = [
            {"image": f"/data/local-files/?d={each.picture}", "volume": v.name, "slice": each.index}
            for v in (drawn.volume for drawn in self.volumes)
            for each in v.slices
        ]
        path = f"/api/projects/{self.number}/import"
        self._annotator.call("POST", path, json=[{"data": row} for row in rows])
        query = {"project": self.number, "page_size": 100_000, "include": "id,data"}
        found = self._annotator.call("GET", "/api/tasks", params=query)["tasks"]
        return {(task["data"]["volume"], task["data"]["slice"]): task["id"] for task in found}

    def submit(self, drawn: Drawn, index: int, *, skip: bool = False) -> None:
        """Submit a slice as it is drawn."""
        plane = drawn.volume.plane
        values = plane.cut(drawn.labels, index)
        masks = np.stack([shown_mask(plane, values == number) for number in self._classes])
        result = labels.regions(masks, self._config, scores=[1.0] * len(masks))
        task = self._tasks[drawn.volume.name, index]
        body = {"result": result, "was_cancelled": skip, "lead_time": 12.0}
        self._annotator.call("POST", f"/api/tasks/{task}/annotations/", json=body)

    def expected(self, drawn: Drawn) -> Array:
        """Return the labels with the numbers that an export writes: those of the interface."""
        wanted = np.zeros(drawn.labels.shape, int)
        for number, value in enumerate(self._classes, start=1):
            wanted[drawn.labels == value] = number
        return wanted


def small_volumes(folder: Path) -> list[Drawn]:
    """Return two volumes, one oblique, whose slices are cut and turned in different ways."""
    chance = np.random.default_rng(0)
    tilt = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    oblique = affine_of((0, 2, 1), (1, -1, 1), (1.0, 5.0, 1.0))
    oblique[:3, :3] = tilt @ oblique[:3, :3]
    turns = (
        (affine_of((0, 1, 2), (-1, 1, 1), (0.9, 0.9, 6.0)), Plane(
            2, True, True, False, (14, 18), (18, 14))),
        (oblique, Plane(1, False, False, True, (14, 5), (14, 5))),
    )  # fmt: skip
    return [
        saved(
            folder / f"small-{number}.nii.gz",
            chance.integers(0, 900, shape).astype(np.int16),
            chance.integers(0, 3, shape).astype(np.uint8),
            affine,
            plane,
        )
        for number, (shape, (affine, plane)) in enumerate(
            zip(((14, 18, 5), (14, 6, 5)), turns, strict=True)
        )
    ]


def saved(path: Path, values: Array, drawn: Array, affine: Array, plane: Plane) -> Drawn:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)  # type: ignore[no-untyped-call]
    return Drawn(a_volume(plane, values.shape[plane.axis], affine, path), drawn)


@pytest.fixture
def services(studio: LabelStudio, tmp_path: Path) -> Iterator[Services]:
    settings = Settings(
        label_studio_url=studio.url,
        label_studio_api_key=SecretStr(studio.token),
        data_dir=tmp_path / "data",
        encoder="pixels",
    )
    settings.data_dir.mkdir()
    store = open_store(settings.database)
    store.create()
    services = build(settings, store)
    yield services
    services.studio.close()
    services.source.client.close()
    store.close()


@pytest.mark.parametrize("folder", FOLDERS.split(":"))
def test_label_volumes_are_exported_as_they_were_drawn(
    annotator: Annotator, services: Services, tmp_path: Path, folder: str
) -> None:
    volumes = (
        [Drawn(*each) for each in published(Path(folder), FIRST)]
        if folder
        else small_volumes(tmp_path / "sources")
    )
    project = Project(annotator, services, volumes, tmp_path / "imported")
    untouched, skipped = volumes[0].volume.slices[1].index, volumes[0].volume.slices[2].index
    for each in volumes:
        for index in (one.index for one in each.volume.slices):
            if each is volumes[0] and index in {untouched, skipped}:
                continue
            project.submit(each, index)
    project.submit(volumes[0], skipped, skip=True)

    arguments: dict[str, Any] = {"imported": project.imported}
    report = export(services, project.number, tmp_path / "nifti", "nifti", **arguments)
    assert report.problems == []
    assert report.cases == len(volumes)
    export(services, project.number, tmp_path / "nnunet", "nnunet", **arguments)
    said = nnunet_rules.check(tmp_path / "nnunet")
    for each in volumes:
        expected = project.expected(each)
        name = f"{each.volume.name}.nii.gz"
        with_ignored = expected.copy()
        if each is volumes[0]:
            for index in (untouched, skipped):
                each.volume.plane.cut(expected, index)[...] = 0
                each.volume.plane.cut(with_ignored, index)[...] = said["labels"]["ignore"]
        check(tmp_path / "nifti" / name, expected, each.volume)
        check(tmp_path / "nnunet" / "labelsTr" / name, with_ignored, each.volume)


def test_the_table_holds_time_and_names(
    annotator: Annotator, studio: LabelStudio, services: Services, tmp_path: Path
) -> None:
    volumes = small_volumes(tmp_path / "sources")
    project = Project(annotator, services, volumes, tmp_path / "imported")
    project.submit(volumes[0], 0)
    project.submit(volumes[0], 1, skip=True)
    people = services.studio.user_names()
    export_table(services, the(services.store, project.number), tmp_path, people)
    [line] = csv.DictReader((tmp_path / NAME).read_text().splitlines())
    assert (line["minutes"], line["annotator"]) == ("0.200", studio.email)
    assert (line["volume"], line["slice"]) == (volumes[0].volume.name, "0")


def check(path: Path, expected: Array, volume: Volume) -> None:
    """Assert that a file holds these labels, and lies where its source lies."""
    found: Any = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    source: Any = nibabel.load(Path(volume.root) / volume.source)
    np.testing.assert_array_equal(found.affine, source.affine)


# -- through `import` itself ----------------------------------------------------------------------


@dataclass
class Truth:
    """The labels of a source as they are drawn, in the grid of the volume that it becomes."""

    labels: Array
    missing: tuple[int, ...] = ()  # slices that the source lacks


class Ward:
    """A project that `import` filled, and an annotator who draws the truth on every slice."""

    def __init__(
        self, studio: LabelStudio, annotator: Annotator, data: Path, source: Path, classes: int
    ) -> None:
        self._studio, self._annotator, self.data = studio, annotator, data
        names = [f"class {number + 1}" for number in range(classes)]
        self._classes = range(1, classes + 1)
        self.number = annotator.create_project(source.name, names)
        run(studio, data, "import", str(source), "--project", str(self.number))
        self._config = labels.parse(annotator.project(self.number)["label_config"])
        settings = Settings(data_dir=data)
        self.manifest = load(default_folder(settings, self.number))
        store = open_store(settings.database)
        store.create()
        store.projects.request_refresh(self.number)
        store.close()

    def draw(self, truth_of: Callable[[Volume], Truth]) -> dict[str, Truth]:
        """Submit every task as its volume's truth; return the truths by name of the volume."""
        truths = {volume.name: truth_of(volume) for volume in self.manifest.volumes}
        for task in tasks_of(self._annotator, self.number):
            name, index = task["data"]["volume"], task["data"]["slice"]
            volume = self.manifest.volume(name)
            assert volume is not None
            drawn = volume.plane.cut(truths[name].labels, index)
            masks = np.stack([shown_mask(volume.plane, drawn == n) for n in self._classes])
            result = labels.regions(masks, self._config, scores=[1.0] * len(masks))
            path = f"/api/tasks/{task['id']}/annotations/"
            self._annotator.call("POST", path, json={"result": result, "lead_time": 1.0})
        return truths

    def export(self, to: str) -> Path:
        out = self.data / to
        run(self._studio, self.data, "export", str(self.number), str(out), "--to", to)
        return out


def phantom_heads(folder: Path) -> tuple[Path, Callable[[Volume], Truth], int]:
    """Save two NIfTI volumes, one oblique with pixels that are not square."""
    for each in small_volumes(folder / "images"):
        _save_labels(folder / "labels" / each.volume.source, each.labels)
    return folder, partial(_labels_beside, folder), 2


def published_heads(folder: Path, copy: Path) -> tuple[Path, Callable[[Volume], Truth], int]:
    """Take the first volumes of a folder of published data."""
    (copy / "images").mkdir(parents=True)
    most = 0
    for path in sorted((folder / "images").glob("*.nii.gz"))[:FIRST]:
        shutil.copy(path, copy / "images")
        drawn: Any = nibabel.load(folder / "labels" / path.name)
        values = np.asarray(drawn.dataobj).astype(np.uint8)
        most = max(most, int(values.max()))
        _save_labels(copy / "labels" / path.name, values)
    return copy, partial(_labels_beside, copy), most


def _save_labels(path: Path, values: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".npy").open("wb") as file:
        np.save(file, values)


def _labels_beside(folder: Path, volume: Volume) -> Truth:
    name = Path(volume.source).with_suffix(".npy").name
    return Truth(np.load(folder / "labels" / name))


@pytest.mark.parametrize("folder", FOLDERS.split(":"))
def test_nifti_volumes_go_through_import_and_export_voxel_by_voxel(
    studio: LabelStudio, annotator: Annotator, tmp_path: Path, folder: str
) -> None:
    source, truth_of, classes = (
        published_heads(Path(folder), tmp_path / "heads")
        if folder
        else phantom_heads(tmp_path / "heads")
    )
    ward = Ward(studio, annotator, tmp_path / "data", source / "images", classes)
    truths = ward.draw(truth_of)
    out = ward.export("nifti")
    for volume in ward.manifest.volumes:
        check(out / f"{volume.name}.nii.gz", truths[volume.name].labels, volume)


TILTED = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
STUDY = {"FrameOfReferenceUID": "1.2.6", "StudyDate": "", "StudyTime": "", "StudyID": ""}


def save_scanner(folder: Path) -> None:
    """Write two series into one folder: an oblique one in MONOCHROME1 without its third slice, with
    a copy of a file, and a compressed one.
    """
    chance = np.random.default_rng(3)
    normal = np.cross(TILTED[:3], TILTED[3:])
    for number in (0, 1, 3, 4):
        made = slice_at(
            chance.integers(0, 3000, (10, 12)).astype(np.uint16),
            number,
            PhotometricInterpretation="MONOCHROME1",
            ImageOrientationPatient=TILTED,
            ImagePositionPatient=[*(2.5 * number * normal)],
            **STUDY,
        )
        path = save_dicom(folder / f"a{(7 * number) % 11}.dcm", made)
    shutil.copy(path, folder / "copy.dcm")
    for number in range(3):
        made = slice_at(
            chance.integers(0, 3000, (8, 8)).astype(np.uint16),
            number,
            SeriesInstanceUID="1.2.9",
            SOPInstanceUID=f"1.9.{number}",
            **STUDY,
        )
        made.compress(uid.RLELossless, generate_instance_uid=False)
        save_dicom(folder / f"b{number}.dcm", made)


def scanner_truth(volume: Volume) -> Truth:
    chance = np.random.default_rng(volume.shape[0])
    drawn = chance.integers(0, 3, volume.shape).astype(np.uint8)
    missing = set(range(volume.shape[2])) - {each.index for each in volume.slices}
    for index in missing:
        drawn[..., index] = 0
    return Truth(drawn, tuple(missing))


def test_dicom_series_go_through_import_and_back(
    studio: LabelStudio, annotator: Annotator, tmp_path: Path
) -> None:
    save_scanner(tmp_path / "scanner")
    ward = Ward(studio, annotator, tmp_path / "data", tmp_path / "scanner", 2)
    assert {volume.shape for volume in ward.manifest.volumes} == {(12, 10, 5), (8, 8, 3)}
    truths = ward.draw(scanner_truth)
    assert sorted(truth.missing for truth in truths.values()) == [(), (2,)]
    as_nifti, as_dicom = ward.export("nifti"), ward.export("dicomseg")
    for volume in ward.manifest.volumes:
        drawn = truths[volume.name].labels
        found: Any = nibabel.load(as_nifti / f"{volume.name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj), drawn)
        np.testing.assert_allclose(found.affine, np.array(volume.affine), atol=1e-5)
        made = highdicom.seg.segread(as_dicom / f"{volume.name}.dcm")
        masks = made.get_pixels_by_source_instance([one.sop_instance for one in volume.slices])
        for place, one in enumerate(volume.slices):
            for number in (1, 2):
                expected = number == drawn[..., one.index].T
                np.testing.assert_array_equal(masks[place, ..., number - 1], expected)
