"""Write a sample of what this release keeps: python -m tests.upgrade.write tests/upgrade/schema-N.

Done once for each release that changes what lies in DATA_DIR; samples are never changed afterwards.
Weights are left out, for they are large: a model without weights is trained anew when needed.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from backend.imaging.fetch import ImageSource
from backend.label_studio.client import LabelStudio
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage.store import open_store
from tests.backend.conftest import Clock, answering, settings_in
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.site import TINY, Site

DATABASE = "firstlight.sql"
OUTSIDE = "label-studio.json"


def main(folder: Path) -> None:
    """Let a project live through three rounds, and write down what is kept of it."""
    clock = Clock()
    fake = FakeLabelStudio(clock)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.rounds.models.learner.train_config", lambda *_: TINY)
        settings = settings_in(Path(name))
        store = open_store(settings.database)
        store.clock = clock
        store.create()
        fake.setup = answering(store)
        client = fake.client()
        studio = LabelStudio(settings, client)
        source = ImageSource(
            settings.label_studio_url, studio.authorisation, (), settings.max_image_bytes, client
        )
        number = fake.add_project()
        fake.connect(number)
        store.projects.request_refresh(number)
        site = Site(Services(settings, store, studio, source), fake, clock, number)
        site.start()
        live_through_three_rounds(site)
        site.stop()
        store.close()
        write(settings, fake, folder)


def live_through_three_rounds(site: Site) -> None:
    """A cold start, a model, a better one; a skip, a broken scan and a pinned version too."""
    site.fake.add_task(site.number, b"no image")
    site.refresh()
    site.label(0, 1)
    site.refresh()
    first = site.project.live_version
    site.label(2)
    site.fake.annotate(site.tasks[3], skip=True)
    project = site.refresh()
    assert (project.problem, len(site.versions)) == ("", 3)
    site.store.publications.pin(site.number, first)


def write(settings: Settings, fake: FakeLabelStudio, folder: Path) -> None:
    """Write the database as SQL, the files beside it, and what Label Studio held."""
    copytree(
        settings.data_dir / "projects",
        folder / "projects",
        ignore=ignore_patterns("models", "scans-*"),
    )
    with closing(sqlite3.connect(settings.data_dir / "firstlight.sqlite")) as database:
        (folder / DATABASE).write_text("\n".join(database.iterdump()) + "\n")
    held = {
        "entries": fake.entries,
        "projects": {number: asdict(project) for number, project in fake.projects.items()},
    }
    (folder / OUTSIDE).write_text(json.dumps(held, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
