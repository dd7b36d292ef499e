"""A connected project and the web process, for the tests of the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from backend.commands.findings import Check, Finding
from backend.label_studio.publisher import Publisher
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage.store import Store
from backend.storage.tables import Publication
from backend.web.app import create_app
from backend.web.ml_protocol import live_drafts
from model import encoders
from model.encoders import Encoder
from tests.backend.fake_label_studio import FakeLabelStudio

US = "http://127.0.0.1:9090"


@pytest.fixture(autouse=True)
def new_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite that is new enough for DBOS: that of this Python may be older."""
    monkeypatch.setattr("backend.worker.jobs_database.SQLITE", (3, 42, 0))


@pytest.fixture
def number(fake: FakeLabelStudio, store: Store, services: Services) -> int:
    """A project that is connected and has a queue of three scans."""
    number = fake.add_project()
    fake.connect(number, url=US)
    store.projects.request_refresh(number)
    services.studio.ensure_webhook(number, f"{US}/webhook", {})
    tasks = [fake.add_task(number, np.full((16, 16), 0.5)) for _ in range(3)]
    store.scans.save(number, [{"id": task, "url": ""} for task in tasks])
    desk = Publisher(services.settings, store, services.studio, number)
    version = desk.publish(
        Publication(round=1, labels=0, model_key="", drafts=""), "cold-start", tasks, {}
    )
    store.publications.go_live(number, version)
    desk.switch(version)
    store.projects.update(number, completed=1)
    return number


@pytest.fixture
def web(settings: Settings, store: Store) -> Iterator[httpx.Client]:
    with served(settings, store) as client:
        yield client


def served(settings: Settings, store: Store) -> httpx.Client:
    app = create_app(settings, store, live_drafts(settings, store))
    return httpx.Client(transport=httpx.WSGITransport(app=app))


def pixels() -> Encoder:
    return encoders.load("pixels")


def only(fake: FakeLabelStudio, kind: str = "entries") -> dict[str, Any]:
    [found] = getattr(fake, kind).values()
    return dict(found)


def mended(check: Check) -> Finding:
    """Expect something wrong that can be fixed; fix it and look again."""
    finding = check()
    assert not finding.ok
    assert finding.fix
    assert finding.repair
    finding.repair()
    return check()
