"""What an earlier release kept opens in this one: nothing a person did is lost or done twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from backend.rounds.idle import refinement
from backend.rounds.publications import ProjectPublications
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage.tables import Publication
from backend.web.app import create_app
from tests.backend.conftest import Clock, settings_in
from tests.backend.fake_label_studio import FakeLabelStudio, FakeProject, png
from tests.backend.site import TINY, Site, assert_each_task_once
from tests.upgrade.write import DATABASE, OUTSIDE

SAMPLES = sorted(Path(__file__).parents[2].glob("upgrade/schema-*"))
NUMBER = 1


@pytest.fixture(params=SAMPLES, ids=lambda path: path.name)
def sample(request: pytest.FixtureRequest) -> Path:
    """What a release left behind."""
    return Path(request.param)


@pytest.fixture
def settings(sample: Path, tmp_path: Path) -> Settings:
    copytree(sample / "projects", tmp_path / "projects")
    with closing(sqlite3.connect(tmp_path / "firstlight.sqlite")) as database:
        database.executescript((sample / DATABASE).read_text())
    return settings_in(tmp_path)


@pytest.fixture
def fake(sample: Path, clock: Clock) -> FakeLabelStudio:
    clock.advance(86_400)  # the release stood still over night
    fake = FakeLabelStudio(clock)
    held = json.loads((sample / OUTSIDE).read_text())
    fake.entries = {entry["id"]: entry for entry in held["entries"].values()}
    [whole] = held["projects"].values()
    fake.projects[NUMBER] = FakeProject(
        **whole | {part: by_id(whole[part]) for part in ("tasks", "annotations")}
    )
    fake.start_after(max([*fake.projects[NUMBER].tasks, *fake.projects[NUMBER].annotations]))
    return fake


def by_id(found: dict[str, Any]) -> dict[int, Any]:
    return {int(number): one for number, one in found.items()}


@pytest.fixture
def upgraded(
    services: Services,
    fake: FakeLabelStudio,
    clock: Clock,
    jobs: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """This release's worker on what the earlier one left."""
    monkeypatch.setattr("backend.rounds.models.learner.train_config", lambda *_: TINY)
    *tasks, broken = fake.projects[NUMBER].tasks
    site = Site(services, fake, clock, NUMBER, tasks)
    for task, phantom in zip(tasks, site.phantoms, strict=True):
        fake.files[fake.projects[NUMBER].tasks[task]["data"]["image"]] = png(phantom.image)
    fake.files[fake.projects[NUMBER].tasks[broken]["data"]["image"]] = b"no image"
    site.start()
    yield site
    site.stop()


def live(site: Site) -> Publication:
    version = site.store.publications.get(NUMBER, site.project.live_version)
    assert version is not None
    return version


def test_every_release_left_a_sample() -> None:
    assert SAMPLES


def test_the_commands_and_pages_of_this_release_show_what_was_kept(upgraded: Site) -> None:
    files = upgraded.services.files(NUMBER)
    table = ProjectPublications(upgraded.store, upgraded.project, files).table()
    for version in upgraded.store.publications.all(NUMBER):
        assert version.name in table
    client = create_app(upgraded.services.settings, upgraded.store, lambda *_: []).test_client()
    page = client.get(f"/projects/{NUMBER}?format=json").get_json()
    assert (page["labels_used"], page["live_version"]) == (3, live(upgraded).name)
    rounds = client.get(f"/projects/{NUMBER}/rounds.json").get_json()
    assert len(rounds["rounds"]) == 3
    assert client.get(f"/projects/{NUMBER}").status_code == 200


def test_a_refresh_after_an_upgrade_finds_every_label_and_goes_on_with_the_next_round(
    upgraded: Site,
) -> None:
    names, splits = set(upgraded.versions), upgraded.store.labels.splits(NUMBER)
    scores = len(upgraded.store.labels.draft_scores(NUMBER))
    upgraded.store.publications.pin(NUMBER, "")
    upgraded.store.projects.request_refresh(NUMBER, full=True)
    assert upgraded.refresh().problem == ""
    upgraded.label(4)
    assert upgraded.refresh().problem == ""
    assert live(upgraded).labels == 4
    assert live(upgraded).round > 3
    assert live(upgraded).name not in names
    assert splits.items() <= upgraded.store.labels.splits(NUMBER).items()
    assert len(upgraded.store.labels.draft_scores(NUMBER)) >= scores
    assert_each_task_once(upgraded)


def test_an_upgrade_alone_publishes_and_trains_and_refines_nothing(
    upgraded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRSTLIGHT_REFINE", "true")
    before, models = upgraded.versions, len(upgraded.store.publications.models(NUMBER))
    upgraded.store.publications.pin(NUMBER, "")
    assert upgraded.refresh().problem == ""
    assert (upgraded.versions, len(upgraded.store.publications.models(NUMBER))) == (before, models)
    assert refinement.due(upgraded.store) == []


def test_a_pin_outlives_an_upgrade(upgraded: Site) -> None:
    pinned = upgraded.store.publications.pinned(NUMBER)
    assert pinned.startswith("attention-unet r0002")
    upgraded.store.projects.request_refresh(NUMBER)
    # Weights are not among what a sample keeps.
    assert pinned in upgraded.refresh().problem
    assert upgraded.store.publications.pinned(NUMBER) == pinned
