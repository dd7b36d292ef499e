"""The live model's masks, alone and beside those that people submitted."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from backend.errors import ConfigError
from backend.exchange.export.running import Report
from backend.rounds.drafts import drafting
from backend.rounds.services import Services
from backend.storage.tables import Publication
from model import inference
from tests.backend.conftest import the
from tests.backend.exchange.export.exported import export
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.rounds import test_slabs
from tests.backend.rounds.models.test_learner import Lab, ignore

VERSION = "r1"


class Live:
    """A project with six scans, whose live model was trained on the first two."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        lab.label(0, 1)
        self.key = lab.fit()
        lab.store.publications.save(
            Publication(project_id=lab.number, name=VERSION, round=1, attempt=1, model_key=self.key)
        )
        lab.store.publications.go_live(lab.number, VERSION)

    def export(self, masks: str) -> Report:
        return export(self.lab.services, self.lab.number, self.folder, "coco", masks=masks)

    def origins(self) -> dict[int, str]:
        with (self.folder / "index.csv").open() as file:
            return {int(row["task"]): row["origin"] for row in csv.DictReader(file)}


@pytest.fixture
def live(services: Services, fake: FakeLabelStudio, project_id: int, tmp_path: Path) -> Live:
    return Live(Lab(services, fake, project_id), tmp_path / "out")


@pytest.mark.seconds
def test_the_models_masks_are_those_of_its_drafts(live: Live) -> None:
    report = live.export("model")
    assert (report.scans, report.problems) == (6, [])
    assert set(live.origins().values()) == {VERSION}
    said = json.loads((live.folder / "annotations.json").read_text())
    found = {each["image_id"]: coco.decode(each["segmentation"]) for each in said["annotations"]}
    store, lab = live.lab.store, live.lab
    tasks = [(task.id, task.url) for task in store.scans.all(lab.number)]
    for task, scan, probabilities in lab.learner.predict(live.key, tasks):
        [(expected, _)] = drafting.drawn(probabilities[0], scan.size)
        np.testing.assert_array_equal(found.get(task, np.zeros(scan.size)), expected)


@pytest.mark.seconds
def test_both_means_the_models_masks_where_nobody_submitted_one(live: Live) -> None:
    live.export("both")
    people = dict.fromkeys(live.lab.tasks[:2], "annotators")
    assert live.origins() == {**dict.fromkeys(live.lab.tasks, VERSION), **people}
    live.lab.label(4)
    report = live.export("both")
    assert report.written == 1, "the other masks follow from the same labels and model"
    assert live.origins()[live.lab.tasks[4]] == "annotators"


@pytest.mark.seconds
def test_a_scan_that_cannot_be_read_is_named_and_the_next_ones_are_drawn(live: Live) -> None:
    for path in live.lab.services.folder(live.lab.number).rglob("*.npz"):
        path.unlink()
    gone = live.lab.tasks[2]
    del live.lab.fake.files[f"/data/upload/{live.lab.number}/{gone}.png"]
    report = live.export("model")
    assert report.problems == [f"task {gone}: its picture cannot be read"]
    assert live.origins().keys() == set(live.lab.tasks) - {gone}


@pytest.mark.seconds
def test_without_a_live_model_for_todays_classes_there_are_no_masks(live: Live) -> None:
    live.lab.store.projects.update(live.lab.number, live_version="")
    with pytest.raises(ConfigError, match="has no live model yet"):
        live.export("model")
    live.lab.store.projects.update(live.lab.number, live_version=VERSION)
    project = live.lab.fake.projects[live.lab.number]
    project.label_config = project.label_config.replace("Lung", "Heart")
    with pytest.raises(ConfigError, match="was trained for other classes"):
        live.export("both")
    assert the(live.lab.store, live.lab.number).live_version == VERSION


@pytest.mark.seconds
def test_the_models_masks_of_a_slab_lie_on_their_pages(
    services: Services,
    fake: FakeLabelStudio,
    project_id: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = test_slabs.Lab(services, fake, project_id)
    for row in range(2):
        lab.draw(row, 0, 1)
    now = lab.sync()
    key = lab.learner.fit(now, lab.tasks[:2], ignore)
    version = {"name": VERSION, "round": 1, "attempt": 1, "model_key": key}
    lab.store.publications.save(Publication(project_id=lab.number, **version))
    lab.store.publications.go_live(lab.number, VERSION)
    del fake.files["/data/upload/1/page-7.png"]  # the middle page of the third slab

    def predict(model: object, images: Sequence[Any], **_: Any) -> Iterator[Any]:
        return ((image > 0.5).astype(np.float32)[None] for image in images)

    monkeypatch.setattr(inference, "predict", predict)
    report = export(services, lab.number, tmp_path / "out", "png", masks="both")
    assert report.problems == [f"task {lab.tasks[2]}: its picture cannot be read"]
    for task, scan, pages in lab.learner.predict(key, [lab.address(3), lab.address(4)]):
        first = lab.tasks.index(task) * test_slabs.PAGES
        for number, probabilities in enumerate(pages, start=first):
            [(expected, _)] = drafting.drawn(probabilities, scan.size)
            with Image.open(tmp_path / "out" / "masks" / "Lung" / f"page-{number}.png") as mask:
                np.testing.assert_array_equal(np.asarray(mask) == 255, expected)
