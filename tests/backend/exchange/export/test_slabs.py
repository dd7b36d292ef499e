"""Exports of slabs: every page goes back to its slice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from backend.exchange.export.cases import Scan, image_name
from backend.exchange.export.running import Report
from backend.exchange.export.table import NAME, export_table
from backend.imaging.manifest import Volume
from backend.imaging.planes import Plane
from backend.label_studio import labels
from backend.rounds.services import Services
from tests.backend.conftest import Region, the
from tests.backend.exchange.export.exported import (
    TWO,
    a_volume,
    affine_of,
    export,
    files_of,
    save_manifest,
)
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.imaging.shown import shown_mask

PAGED = TWO.replace('value="$image"', 'valueList="$slices"')
SLAB = labels.parse(PAGED)
PLANE = Plane(2, True, True, False, (14, 18), (18, 14))
DEPTH = 7
PAGES = ((0, 1, 2), (3, 4, 5), (6,))
TRUTH = np.random.default_rng(0).integers(0, 3, (14, 18, DEPTH)).astype(np.uint8)


class Desk:
    """A volume that was imported as slabs, and its tasks."""

    def __init__(self, services: Services, fake: FakeLabelStudio, number: int, folder: Path):
        self.services, self.fake, self.number, self.folder = services, fake, number, folder
        fake.projects[number].label_config = PAGED
        path = folder / "heart.nii.gz"
        values = np.random.default_rng(1).integers(0, 900, TRUTH.shape).astype(np.int16)
        self.affine = affine_of((0, 1, 2), (-1, 1, 1), (0.9, 0.9, 6.0))
        nibabel.save(nibabel.Nifti1Image(values, self.affine), path)  # type: ignore[no-untyped-call]
        volume = a_volume(PLANE, DEPTH, self.affine, path)
        self.volume = Volume.model_validate({**volume.model_dump(), "slabs": PAGES})
        self.imported = save_manifest(number, folder / "imported", self.volume)
        self.tasks = [self.task(pages) for pages in PAGES]

    def task(self, pages: tuple[int, ...]) -> int:
        slices = [f"/data/upload/1/0123abcd-heart_{index:04}.png" for index in pages]
        known = {"volume": "heart", "slice": pages[len(pages) // 2], "pages": list(pages)}
        return self.fake.add_task(self.number, None, slices=slices, **known)

    def submit(self, row: int, *drawn: int) -> int:
        """Submit a slab on which these slices are drawn, the others left empty."""
        result = [
            region
            for page, index in enumerate(PAGES[row])
            if index in drawn
            for region in self.regions(index, page)
        ]
        return self.fake.annotate(self.tasks[row], result, seconds=30)

    def regions(self, index: int, page: int) -> list[Region]:
        values = PLANE.cut(TRUTH, index)
        return [
            region
            for number, label in enumerate(SLAB.labels, start=1)
            for region in labels.regions_of(
                label, shown_mask(PLANE, values == number), SLAB, score=1.0, page=page
            )
        ]

    def export(self, to: str) -> tuple[Report, Path]:
        folder = self.folder / to
        return export(self.services, self.number, folder, to, imported=self.imported), folder


@pytest.fixture
def desk(services: Services, fake: FakeLabelStudio, project_id: int, tmp_path: Path) -> Desk:
    return Desk(services, fake, project_id, tmp_path)


def test_pages_go_back_to_their_voxels(desk: Desk) -> None:
    desk.submit(0, 0, 2)
    desk.submit(1, 3, 4, 5)
    report, folder = desk.export("nifti")
    assert (report.cases, report.scans, report.problems) == (1, 6, [])
    expected = TRUTH.copy()
    expected[..., [1, 6]] = 0
    found: Any = nibabel.load(folder / "heart.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_allclose(found.affine, desk.affine, rtol=1e-6)


def test_nnunet_ignores_slabs_without_a_submit_but_not_empty_pages(desk: Desk) -> None:
    desk.submit(0, 0, 2)
    desk.submit(2, 6)
    _, folder = desk.export("nnunet")
    expected = TRUTH.copy()
    expected[..., 1], expected[..., 3:6] = 0, 3
    found: Any = nibabel.load(folder / "labelsTr" / "heart.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)


def test_coco_has_an_image_for_each_page(desk: Desk) -> None:
    desk.submit(0, 0, 2)
    _, folder = desk.export("coco")
    written = json.loads((folder / "annotations.json").read_text())
    images = {image["id"]: image for image in written["images"]}
    names = [f"heart_{index:04}.png" for index in PAGES[0]]
    assert [image["file_name"] for image in images.values()] == names
    assert [image["slice"] for image in images.values()] == [0, 1, 2]
    drawn = {images[one["image_id"]]["slice"] for one in written["annotations"]}
    assert drawn == {0, 2}


@pytest.mark.parametrize(("to", "ending"), [("png", ".png"), ("yolo", ".txt")])
def test_every_page_has_files_of_its_own(desk: Desk, to: str, ending: str) -> None:
    desk.submit(1, 3)
    _, folder = desk.export(to)
    names = {Path(name).name for name in files_of(folder) if name.endswith(ending)}
    assert names == {f"heart_{index:04}{ending}" for index in PAGES[1]}


def test_the_table_has_a_line_for_each_slab_with_its_slices(desk: Desk, tmp_path: Path) -> None:
    desk.submit(1, 3)
    export_table(desk.services, the(desk.services.store, desk.number), tmp_path, {})
    [line] = csv.DictReader((tmp_path / NAME).read_text().splitlines())
    assert (line["slice"], line["minutes"], line["regions"]) == ("3 4 5", "0.500", "2")


def test_an_annotation_with_a_page_that_is_not_there_is_left_out_and_named(
    desk: Desk, tmp_path: Path
) -> None:
    bad = desk.fake.annotate(desk.tasks[2], desk.regions(6, page=1))
    why = f"annotation {bad} is left out, because brush region 0: its item_index is 1"
    report, _ = desk.export("nifti")
    assert any(why in problem for problem in report.problems)
    table = export_table(desk.services, the(desk.services.store, desk.number), tmp_path, {})
    assert any(why in problem for problem in table.problems)


@pytest.mark.parametrize("pages", [None, [0], ["0", "1", "2"], 5])
def test_a_slab_that_does_not_say_its_slices_is_named(desk: Desk, pages: object) -> None:
    desk.submit(1, 3)
    desk.fake.change_data(desk.tasks[0], pages=pages)
    desk.submit(0, 0)
    report, _ = desk.export("nifti")
    assert any(f"task {desk.tasks[0]}: it is no slice of a volume" in p for p in report.problems)


def test_pages_have_numbers_of_their_own() -> None:
    slab = [Scan(7, "a", "a.png", "", 1, page=page, pages=("a", "b")) for page in range(2)]
    assert [scan.number for scan in slab] == [700, 701]
    assert Scan(7, "a", "a.png", "", 1).number == 7
    assert image_name("/data/upload/1/0123abcd-heart_0001.png") == "heart_0001.png"
