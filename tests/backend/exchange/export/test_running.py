from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import ConfigError, Unreachable
from backend.exchange.export import running
from backend.rounds import sync
from backend.rounds.services import Services
from tests.backend.conftest import Region, drawn, the
from tests.backend.exchange.export.exported import export, files_of
from tests.backend.fake_label_studio import FakeLabelStudio

SIZE = 16
TOP, BOTTOM, ALL = slice(0, 8), slice(8, 16), slice(0, 16)


class Desk:
    """A project with tasks, and its export as PNG."""

    def __init__(self, services: Services, fake: FakeLabelStudio, number: int, folder: Path):
        self.services, self.fake, self.number, self.folder = services, fake, number, folder

    def task(self, *labels: slice, **data: Any) -> int:
        task = self.fake.add_task(self.number, np.full((SIZE, SIZE), 0.5), **data)
        for rows in labels:
            self.fake.annotate(task, drawn(rows, size=SIZE))
        return task

    def export(self, to: str = "png", **choice: Any) -> running.Report:
        return export(self.services, self.number, self.folder, to, **choice)

    def mask(self, task: int, folder: str = "") -> list[int]:
        """Return the rows of a task that its exported mask covers."""
        path = self.folder / folder / "masks" / "Lung" / f"{task}.png"
        with Image.open(path) as picture:
            values = np.asarray(picture)
        assert set(np.unique(values)) <= {0, 255}
        return list(np.flatnonzero(values.all(axis=1)))

    def index(self, folder: str = "") -> list[dict[str, str]]:
        with (self.folder / folder / "index.csv").open() as file:
            return list(csv.DictReader(file))

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "export.json").read_text()))


@pytest.fixture
def desk(services: Services, fake: FakeLabelStudio, project_id: int, tmp_path: Path) -> Desk:
    return Desk(services, fake, project_id, tmp_path / "out")


# -- which masks ----------------------------------------------------------------------------------


def test_submitted_masks_are_exported_and_skips_and_open_scans_are_not(desk: Desk) -> None:
    labelled, empty, skipped = desk.task(TOP), desk.task(), desk.task()
    desk.task()
    desk.fake.annotate(empty)
    desk.fake.annotate(skipped, drawn(ALL, size=SIZE), skip=True)
    desk.fake.annotate(labelled, drawn(ALL, size=SIZE), skip=True)
    report = desk.export()
    assert (report.scans, report.problems) == (2, [])
    assert desk.mask(labelled) == list(range(8))
    assert desk.mask(empty) == [], "submitted without a region is a true empty mask"
    assert [row["task"] for row in desk.index()] == [str(labelled), str(empty)]
    assert [row["Lung"] for row in desk.index()] == ["1", "0"]


def test_several_annotations_are_merged_by_majority_and_a_tie_is_background(desk: Desk) -> None:
    three, two = desk.task(TOP, TOP, ALL), desk.task(TOP, ALL)
    desk.export()
    assert desk.mask(three) == desk.mask(two) == list(range(8))
    tie = desk.task(TOP, BOTTOM)
    desk.export()
    assert desk.mask(tie) == []


def test_the_latest_annotation_is_the_one_that_changed_last(desk: Desk) -> None:
    task = desk.task()
    first = desk.fake.annotate(task, drawn(TOP, size=SIZE))
    desk.fake.annotate(task, drawn(BOTTOM, size=SIZE))
    desk.fake.change_annotation(first, ground_truth=True)
    desk.export(merging="latest")
    assert desk.mask(task) == list(range(8))


def test_each_annotator_gets_a_folder_by_number(desk: Desk) -> None:
    task = desk.task()
    for person, rows in ((3, TOP), (8, ALL), (3, BOTTOM)):
        number = desk.fake.annotate(task, drawn(rows, size=SIZE))
        desk.fake.change_annotation(number, completed_by=person)
    report = desk.export(merging="each")
    assert report.scans == 1
    assert desk.mask(task, "annotator-3") == list(range(8, 16)), "of one person the latest counts"
    assert desk.mask(task, "annotator-8") == list(range(16))
    assert [row["annotators"] for row in desk.index("annotator-8")] == ["8"]


@pytest.mark.parametrize("to", ["png", "coco"])
def test_the_folder_of_an_annotator_goes_with_the_last_annotation(desk: Desk, to: str) -> None:
    task = desk.task()
    numbers = {}
    for person in (3, 8):
        numbers[person] = desk.fake.annotate(task, drawn(TOP, size=SIZE))
        desk.fake.change_annotation(numbers[person], completed_by=person)
    desk.export(to, merging="each")
    assert (desk.folder / "annotator-8" / "index.csv").exists()
    desk.fake.delete_annotation(numbers[8])
    desk.export(to, merging="each")
    assert not (desk.folder / "annotator-8").exists()
    assert {*desk.record()["sha256"], "export.json"} == files_of(desk.folder).keys()


def test_an_annotation_that_cannot_be_read_is_named_and_the_others_count(desk: Desk) -> None:
    both, alone = desk.task(TOP), desk.task()
    bad: list[Region] = [{**drawn(size=SIZE)[0], "value": {}}]
    desk.fake.annotate(both, bad)
    desk.fake.annotate(alone, bad)
    report = desk.export()
    assert desk.mask(both) == list(range(8))
    assert report.scans == 1
    assert len(report.problems) == 2
    assert all("is left out, because brushlabels" in each or "brush region 0" in each
               for each in report.problems)  # fmt: skip
    assert desk.export().problems == report.problems, "a second run says it again"
    assert desk.record()["left_out"] == report.problems


def test_a_mask_of_another_size_than_the_picture_is_left_out(desk: Desk) -> None:
    task = desk.task()
    desk.services.store.scans.save(
        desk.number, [{"id": task, "url": f"/data/upload/{desk.number}/{task}.png"}]
    )
    desk.services.store.scans.update(desk.number, task, height=20, width=SIZE)
    desk.fake.annotate(task, drawn(size=SIZE))
    [problem] = desk.export().problems
    assert "was drawn on a picture of 16 x 16 pixels, but the picture has 20 x 16" in problem


# -- again, and after changes ---------------------------------------------------------------------


def test_a_second_run_writes_only_what_changed(desk: Desk) -> None:
    tasks = [desk.task(TOP) for _ in range(3)]
    assert desk.export().written == 3
    before, calls = files_of(desk.folder), desk.fake.calls("GET", "/api/tasks/whole")
    again = desk.export()
    assert (again.written, again.cases) == (0, 3)
    assert files_of(desk.folder) == before
    assert desk.fake.calls("GET", "/api/tasks/whole") == calls, "no mask is read again"

    desk.fake.annotate(tasks[1])
    (desk.folder / "masks" / "Lung" / f"{tasks[2]}.png").write_bytes(b"cut")
    changed = desk.export()
    assert changed.written == 2, "the new annotation, and the damaged file"
    assert desk.mask(tasks[1]) == []
    assert desk.mask(tasks[2]) == list(range(8))


def test_files_of_scans_that_lost_their_label_are_deleted(desk: Desk) -> None:
    first, second = desk.task(TOP), desk.task(TOP)
    desk.export()
    desk.fake.delete_task(first)
    report = desk.export()
    assert (report.removed, report.cases) == (1, 1)
    assert [name for name in files_of(desk.folder) if "masks" in name] == [
        f"masks/Lung/{second}.png"
    ]


def test_an_export_goes_on_where_it_was_cut_off(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PART", 1)
    tasks = [desk.task(TOP) for _ in range(4)]
    desk.fake.fail("GET", "/api/tasks/whole", 500, after=2, times=9)
    with pytest.raises(Unreachable):
        desk.export()
    (desk.folder / f".{tasks[0]}.png.0123.partial").write_bytes(b"half")
    desk.fake.heal()
    report = desk.export()
    assert (report.written, report.cases) == (2, 4)
    assert not list(desk.folder.rglob("*.partial"))


def test_a_folder_serves_one_export(desk: Desk) -> None:
    desk.task(TOP)
    desk.export()
    for other in ({"to": "coco"}, {"merging": "latest"}):
        with pytest.raises(ConfigError, match="another project, format or choice"):
            desk.export(**other)


def test_a_folder_with_other_files_is_left_alone(desk: Desk) -> None:
    desk.folder.mkdir()
    (desk.folder / "thesis.doc").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds files that no export wrote, first thesis\.doc"):
        desk.export()
    assert files_of(desk.folder) == {"thesis.doc": b"mine"}


def test_the_record_holds_the_hash_of_every_file(desk: Desk) -> None:
    desk.task(TOP)
    desk.export()
    record = desk.record()
    assert {*record["sha256"], "export.json"} == files_of(desk.folder).keys()
    assert record["classes"] == ["Lung"]


def test_a_changed_label_config_exports_everything_anew(desk: Desk) -> None:
    desk.task(TOP)
    desk.export()
    project = desk.fake.projects[desk.number]
    project.label_config = project.label_config.replace(
        "</BrushLabels>", '<Label value="Heart"/></BrushLabels>'
    )
    assert desk.export().written == 1
    assert [name for name in files_of(desk.folder) if "Heart" in name]


def test_memory_holds_the_annotations_of_one_part(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PART", 2)
    for _ in range(5):
        desk.task(TOP)
    desk.export()
    assert desk.fake.calls("GET", "/api/tasks/whole") == 3


# -- names ----------------------------------------------------------------------------------------


def test_files_are_named_like_the_pictures(desk: Desk) -> None:
    for url in (
        "/data/upload/1/0a1b2c3d-chest%20one.png",
        "/data/local-files/?d=ward/b.dcm",
        "s3://bucket/x/c.jpg",
        "https://host/c.png",
        "/data/upload/1/C.PNG",
    ):
        task = desk.task(TOP)
        desk.fake.files[url] = b""
        desk.fake.change_data(task, image=url)
    desk.export()
    names = [Path(name).stem for name in files_of(desk.folder) if name.startswith("masks/")]
    assert names[0].startswith("C-task-"), "names that differ in case only are told apart"
    assert {"chest one", "b"} < set(names)
    assert len(set(names)) == 5
    assert {row["image"] for row in desk.index()} == {"chest one.png", "b.dcm", "c.jpg", "c.png",
                                                      "C.PNG"}  # fmt: skip


def test_the_side_is_that_of_the_projects_split(desk: Desk) -> None:
    tasks = [desk.task(TOP, patient=patient) for patient in ("a", "a", "b")]
    desk.fake.entries[1]["extra_params"] = {"group_by": "patient"}
    sync.sync(desk.services.studio, desk.services.store, the(desk.services.store, desk.number))
    desk.services.store.labels.save_splits(desk.number, {tasks[0]: True, tasks[2]: False})
    desk.export()
    assert [row["side"] for row in desk.index()] == ["validation", "validation", "training"]


def test_names_of_annotators_stand_in_the_index_of_the_run_that_asked_for_them(
    desk: Desk,
) -> None:
    task = desk.task()
    desk.fake.change_annotation(desk.fake.annotate(task), completed_by=1)
    project = the(desk.services.store, desk.number)
    choice, people = running.Choice("png"), desk.services.studio.user_names()
    for names, expected in ((people, "first@example.org"), ({}, "1")):
        running.Export(desk.services, project, choice, desk.folder, names=names).run()
        assert [row["annotators"] for row in desk.index()] == [expected]


def test_a_region_that_claims_an_impossible_size_costs_no_memory(desk: Desk) -> None:
    huge = {**drawn(size=SIZE)[0], "original_width": 10**8, "original_height": 10**8}
    desk.fake.annotate(desk.task(), [huge])
    [problem] = desk.export().problems
    assert "the picture has 16 x 16" in problem
