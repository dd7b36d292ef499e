"""Slabs in a real Label Studio: imported, drawn, trained on, drafted, exported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydantic import SecretStr

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from backend.imaging.manifest import Manifest, Volume, load
from backend.label_studio import labels
from backend.rounds.services import Services, build
from backend.settings import Settings
from backend.storage.store import open_store
from demo.annotator import Annotator
from tests.backend.exchange.export.exported import Array, export
from tests.backend.imaging.shown import shown_mask
from tests.label_studio import thorax
from tests.label_studio.commands import project_titled, run, tasks_of
from tests.label_studio.conftest import OPTIONS, page_at

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(900)]

VOLUMES, SLICES, PAGES = 4, 9, 3


@dataclass
class Lab:
    """A project of slabs, and what people draw on them: the lungs."""

    annotator: Annotator
    backend: Backend
    project: int
    folder: Path

    @property
    def manifest(self) -> Manifest:
        return load(self.folder)

    def page(self) -> dict[str, Any]:
        return page_at(f"{self.backend.page(self.project)}?format=json")

    def settle(self, labels: int) -> None:
        self.backend.wait_for_queue(self.project, labels=labels, seconds=300)

    def next_task(self) -> dict[str, Any]:
        task = self.annotator.next_task(self.project)
        assert task is not None
        return task

    def submit(self, task: dict[str, Any], *on: int) -> None:
        """Submit the lungs on these pages of a task."""
        config = labels.parse(self.annotator.project(self.project)["label_config"])
        volume = self.manifest.volume(task["data"]["volume"])
        assert volume is not None
        result = []
        for page in on:
            place = volume.plane.cut(lungs(volume), task["data"]["pages"][page])
            mask = shown_mask(volume.plane, place)
            result += labels.regions_of("Lung", mask, config, score=1.0, page=page)
        body = {"result": result, "lead_time": 20.0}
        self.annotator.call("POST", f"/api/tasks/{task['id']}/annotations/", json=body)


def lungs(volume: Volume) -> Array:
    image: Any = nibabel.load(Path(volume.root) / volume.source)
    values = np.asarray(image.dataobj)
    return (values > -920) & (values < -700)


@pytest.fixture
def services(studio: LabelStudio, lab: Lab, tmp_path: Path) -> Iterator[Services]:
    """What an export needs, with a database of its own."""
    key = SecretStr(studio.token)
    settings = Settings(
        label_studio_url=studio.url, label_studio_api_key=key, data_dir=tmp_path, encoder="pixels"
    )
    store = open_store(settings.database)
    store.create()
    store.projects.request_refresh(lab.project)
    services = build(settings, store)
    yield services
    services.studio.close()
    services.source.client.close()
    store.close()


@pytest.fixture
def lab(studio: LabelStudio, annotator: Annotator, backend: Backend, tmp_path: Path) -> Lab:
    source, data = thorax.save(tmp_path / "source", VOLUMES, slices=SLICES), tmp_path / "data"
    options = ["--labels", "Lung", "--window", "lung", "--slab", str(PAGES)]
    title = f"Slabs {tmp_path.name}"
    run(studio, data, "import", str(source), "--new", title, *options)
    project = project_titled(annotator, title)
    backend.connect(project, {**OPTIONS, "group_by": "volume"})
    return Lab(annotator, backend, project, data / "imports" / str(project))


def test_slabs_are_drawn_trained_on_drafted_and_exported(
    lab: Lab, services: Services, tmp_path: Path
) -> None:
    tasks = tasks_of(lab.annotator, lab.project)
    assert len(tasks) == VOLUMES * SLICES // PAGES
    lab.settle(labels=0)

    expected: dict[str, Array] = {}
    for number in range(5):
        task = lab.next_task()
        on = (0, 2) if number == 0 else (0, 1, 2)
        lab.submit(task, *on)
        volume = lab.manifest.volume(task["data"]["volume"])
        assert volume is not None
        into = expected.setdefault(volume.name, np.zeros(volume.shape, bool))
        for page in on:
            index = task["data"]["pages"][page]
            volume.plane.cut(into, index)[...] = volume.plane.cut(lungs(volume), index)
    lab.settle(labels=5)

    check_drafts(lab)
    report = export(services, lab.project, tmp_path / "nifti", "nifti", imported=lab.folder)
    assert (report.scans, report.problems) == (5 * PAGES, [])
    for name, voxels in expected.items():
        found: Any = nibabel.load(tmp_path / "nifti" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj), voxels)


def check_drafts(lab: Lab) -> None:
    """The next slabs have drafts on their pages; what Label Studio serves can be submitted."""
    page = lab.page()
    assert (page["problem"], page["labels_used"]) == ("", 5)
    drafts = lab.annotator.predictions(lab.project, str(page["live_version"]))
    assert drafts
    regions = [region for draft in drafts for region in draft["result"]]
    assert {region["item_index"] for region in regions} == set(range(PAGES))
    assert all(region["id"] == f"Lung-{region['item_index']}" for region in regions)


def test_a_page_that_is_not_there_is_named_and_stops_nothing(lab: Lab) -> None:
    lab.settle(labels=0)
    bad = lab.next_task()
    config = labels.parse(lab.annotator.project(lab.project)["label_config"])
    mask = np.ones((64, 64), bool)
    result = labels.regions_of("Lung", mask, config, score=1.0, page=PAGES)
    body = {"result": result, "lead_time": 20.0}
    lab.annotator.call("POST", f"/api/tasks/{bad['id']}/annotations/", json=body)
    for _ in range(2):
        lab.submit(lab.next_task(), 0, 1, 2)
    lab.settle(labels=2)
    assert any("its item_index is 3" in str(each) for each in lab.page()["labels_ignored"])
