"""What other programs read of an export of single scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from backend.errors import ConfigError
from backend.exchange.export.formats.png import folders
from backend.label_studio import labels
from backend.rounds.services import Services
from tests.backend.exchange.export import nnunet_rules
from tests.backend.exchange.export.exported import TWO, Mask, export, files_of, regions
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.label_studio.labels.samples import DRAWN

HEIGHT, WIDTH = 24, 36
SHAPES = "".join(
    f'<{shape}Labels name="{shape}" toName="image"><Label value="Lung"/><Label value="Heart"/>'
    f"</{shape}Labels>"
    for shape in ("Polygon", "Rectangle", "Ellipse")
)
CONFIG = TWO.replace("</View>", f"{SHAPES}</View>")
PARSED = labels.parse(CONFIG)


def a_mask() -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:20, 5:30] = True
    mask[8:12, 10:15] = False  # a hole
    mask[21:23, 1:3] = True
    return mask


def shape(name: str, label: str) -> dict[str, Any]:
    return {
        "id": name,
        "from_name": name,
        "to_name": "image",
        "type": f"{name}labels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {**DRAWN[name], f"{name}labels": [label]},
    }


@pytest.fixture
def project(fake: FakeLabelStudio, project_id: int) -> int:
    fake.projects[project_id].label_config = CONFIG
    return project_id


def a_task(fake: FakeLabelStudio, project: int, result: Any, *, colour: bool = False) -> int:
    shape = (HEIGHT, WIDTH, 3) if colour else (HEIGHT, WIDTH)
    image = np.linspace(0, 1, np.prod(shape)).reshape(shape)
    task = fake.add_task(project, image)
    fake.annotate(task, result)
    return task


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pycocotools_reads_the_masks_of_every_shape(
    services: Services, fake: FakeLabelStudio, project: int, tmp_path: Path
) -> None:
    brush = a_task(fake, project, regions(a_mask(), ~a_mask(), config=TWO))
    mixed = [shape("polygon", "Lung"), shape("ellipse", "Heart"), shape("rectangle", "Lung")]
    outlines = a_task(fake, project, mixed)
    empty = a_task(fake, project, [])
    export(services, project, tmp_path / "out", "coco")
    coco = COCO(tmp_path / "out" / "annotations.json")
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["Lung", "Heart"]
    assert set(coco.getImgIds()) == {brush, outlines, empty}
    expected = {
        brush: np.stack([a_mask(), ~a_mask()]),
        outlines: labels.masks(mixed, PARSED, size=(HEIGHT, WIDTH)),
        empty: np.zeros((2, HEIGHT, WIDTH), bool),
    }
    for task, masks in expected.items():
        [image] = coco.loadImgs(task)
        assert (image["height"], image["width"]) == (HEIGHT, WIDTH)
        assert image["file_name"] == f"{task}.png"
        for category, mask in enumerate(masks, start=1):
            found = coco.loadAnns(coco.getAnnIds(imgIds=task, catIds=category, iscrowd=False))
            assert len(found) == mask.any()
            for each in found:
                np.testing.assert_array_equal(coco.annToMask(each), mask)
                assert each["area"] == mask.sum()
                rows, columns = np.nonzero(mask)
                assert each["bbox"][:2] == [columns.min(), rows.min()]


def test_an_empty_project_gives_a_valid_coco_file(
    services: Services, project: int, tmp_path: Path
) -> None:
    assert export(services, project, tmp_path / "out", "coco").cases == 0
    said = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert (said["images"], said["annotations"]) == ([], [])


def test_the_outlines_of_yolo_cover_the_masks(
    services: Services, fake: FakeLabelStudio, project: int, tmp_path: Path
) -> None:
    task = a_task(fake, project, regions(a_mask(), ~a_mask(), config=TWO))
    empty = a_task(fake, project, [])
    report = export(services, project, tmp_path / "out", "yolo")
    assert (tmp_path / "out" / "data.yaml").read_text().splitlines() == [
        *("train: images/train", "val: images/train", "names:", '  0: "Lung"', '  1: "Heart"')
    ]
    folder = tmp_path / "out" / "labels" / "train"
    assert (folder / f"{empty}.txt").read_text() == ""
    found = np.zeros((2, HEIGHT, WIDTH), bool)
    for line in (folder / f"{task}.txt").read_text().splitlines():
        number, *shares = line.split()
        points = np.array(shares, float).reshape(-1, 2)
        assert ((points >= 0) & (points <= 1)).all()
        picture = Image.new("L", (WIDTH * 8, HEIGHT * 8))
        ImageDraw.Draw(picture).polygon(
            [tuple(point) for point in points * (WIDTH * 8, HEIGHT * 8)], fill=1
        )
        found[int(number)] |= np.asarray(picture)[4::8, 4::8] > 0
    for mask, drawn in zip((a_mask(), ~a_mask()), found, strict=True):
        assert 2 * (mask & drawn).sum() / (mask.sum() + drawn.sum()) > 0.95
    assert len(report.hints) == 2


def test_nnunet_gets_pictures_and_label_maps_of_single_scans(
    services: Services, fake: FakeLabelStudio, project: int, tmp_path: Path
) -> None:
    task = a_task(fake, project, regions(a_mask(), ~a_mask(), config=TWO))
    report = export(services, project, tmp_path / "out", "nnunet")
    said = nnunet_rules.check(tmp_path / "out")
    assert said["channel_names"] == {"0": "image"}
    assert said["file_ending"] == ".png"
    with Image.open(tmp_path / "out" / "labelsTr" / f"{task}.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.where(a_mask(), 1, 2))
    with Image.open(tmp_path / "out" / "imagesTr" / f"{task}_0000.png") as picture:
        grey = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
        np.testing.assert_array_equal(np.asarray(picture), np.rint(grey))
    assert report.overlaps == 0


def test_a_picture_that_is_gone_is_named_and_the_others_go_on(
    services: Services, fake: FakeLabelStudio, project: int, tmp_path: Path
) -> None:
    gone = a_task(fake, project, regions(a_mask(), ~a_mask(), config=TWO))
    a_task(fake, project, [shape("polygon", "Lung")])
    del fake.files[f"/data/upload/{project}/{gone}.png"]
    report = export(services, project, tmp_path / "out", "nnunet")
    nnunet_rules.check(tmp_path / "out")
    [problem] = report.problems
    assert problem.startswith(f"{gone} is left out: Task {gone}")


def test_grey_and_colour_pictures_become_one_dataset(
    services: Services, fake: FakeLabelStudio, project: int, tmp_path: Path
) -> None:
    for colour in (False, True):
        a_task(fake, project, regions(a_mask(), ~a_mask(), config=TWO), colour=colour)
    export(services, project, tmp_path / "out", "nnunet")
    assert list(nnunet_rules.check(tmp_path / "out")["channel_names"].values()) == [
        *("red", "green", "blue")
    ]  # fmt: skip
    before = files_of(tmp_path / "out")
    assert export(services, project, tmp_path / "out", "nnunet").written == 0
    assert files_of(tmp_path / "out") == before


def test_grey_pictures_are_grey_again_after_the_last_colour_one_is_gone(
    services: Services, fake: FakeLabelStudio, project: int, tmp_path: Path
) -> None:
    grey, colour = (
        a_task(fake, project, regions(a_mask(), ~a_mask(), config=TWO), colour=colour)
        for colour in (False, True)
    )
    export(services, project, tmp_path / "out", "nnunet")
    fake.delete_task(colour)
    export(services, project, tmp_path / "out", "nnunet")
    assert nnunet_rules.check(tmp_path / "out")["channel_names"] == {"0": "image"}
    export(services, project, tmp_path / "new", "nnunet")
    name = f"imagesTr/{grey}_0000.png"
    assert files_of(tmp_path / "out")[name] == files_of(tmp_path / "new")[name]


def test_nifti_needs_volumes(services: Services, project: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no volumes, which the format nifti needs"):
        export(services, project, tmp_path / "out", "nifti")


def test_every_class_gets_a_folder_that_file_systems_accept() -> None:
    assert folders(["left lung", "a/b", "Heart", "heart", "..", "Leber ä"]) == [
        *("left lung", "a_b", "class-3", "class-4", "class-5", "Leber ä")
    ]  # fmt: skip
