from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import SecretStr

from backend.imaging.decoder_process import Decoders
from backend.imaging.fetch import ImageSource
from backend.label_studio import labels
from backend.label_studio.client import LabelStudio
from backend.options import ProjectOptions
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage.database import sqlite_path
from backend.storage.store import Store, open_store
from backend.storage.tables import Project
from tests import postgresql
from tests.backend.fake_label_studio import CONFIG, TOKEN, URL, FakeLabelStudio

if TYPE_CHECKING:
    from tests.backend.site import Site

Region = dict[str, Any]


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Leave the loggers as they were: a handler may write to a stream that ends with its test."""
    touched = [logging.getLogger(name) for name in ("", "backend", "model", "waitress", "dbos")]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in touched]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a setting nor an option comes from the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ProjectOptions.model_fields:
        monkeypatch.delenv(f"FIRSTLIGHT_{name.upper()}", raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """A database with all tables on the server that was named; "" for SQLite in DATA_DIR."""
    if not request.config.getoption("--postgresql"):
        return ""
    return str(request.getfixturevalue("postgresql_tables"))


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> Iterator[str]:
    """The name of a database with all tables, and with those of the jobs."""
    from tests.backend.site import make_jobs_database

    with postgresql.empty_database(postgresql_server) as url:
        store = open_store(url)
        store.create()
        store.close()
        make_jobs_database(url)
        yield url.rpartition("/")[2]


@pytest.fixture
def postgresql_tables(postgresql_server: str, postgresql_template: str) -> Iterator[str]:
    """The address of a copy of the template; a copy takes less time than new tables."""
    with postgresql.copied_database(postgresql_server, postgresql_template) as url:
        yield url


@pytest.fixture
def postgresql_database(postgresql_server: str) -> Iterator[str]:
    """An empty database on a PostgreSQL."""
    with postgresql.empty_database(postgresql_server) as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return settings_in(tmp_path, database_url)


def settings_in(folder: Path, database_url: str = "") -> Settings:
    """Return settings for the fake Label Studio, with all that is quick."""
    return Settings(
        label_studio_url=URL,
        label_studio_api_key=SecretStr(TOKEN),
        data_dir=folder,
        database_url=database_url,
        encoder="pixels",
        device="cpu",
    )


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with all tables: to copy it takes a tenth of the time to make them."""
    path = tmp_path_factory.mktemp("template") / "firstlight.sqlite"
    store = open_store(f"sqlite:///{path}")
    store.create()
    store.close()
    return path


@pytest.fixture
def store(settings: Settings, clock: Clock, empty_database: Path) -> Iterator[Store]:
    path = sqlite_path(settings.database)
    if path is not None and not path.exists():
        shutil.copy(empty_database, path)
    store = open_store(settings.database, busy_ms=200)
    store.clock = clock
    store.create()
    yield store
    store.close()


@pytest.fixture
def fake(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FakeLabelStudio:
    # Retries of the HTTP layer stay, their seconds of waiting go.
    monkeypatch.setattr("label_studio_sdk.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.0)
    return FakeLabelStudio(clock)


@pytest.fixture(scope="session")
def decoders() -> Decoders:
    """The decoders of the whole run: one takes a second to start."""
    return Decoders()


@pytest.fixture
def services(
    settings: Settings, store: Store, fake: FakeLabelStudio, decoders: Decoders
) -> Iterator[Services]:
    fake.setup = answering(store)
    with fake.client() as client:
        studio = LabelStudio(settings, client)
        source = ImageSource(
            label_studio_url=settings.label_studio_url,
            authorise=studio.authorisation,
            image_hosts=(),
            max_bytes=settings.max_image_bytes,
            client=client,
        )
        yield Services(settings, store, studio, source, decoders)


@pytest.fixture
def studio(services: Services) -> LabelStudio:
    return services.studio


@pytest.fixture
def project_id(fake: FakeLabelStudio, store: Store) -> int:
    """A project that is connected, without tasks."""
    project_id = fake.add_project()
    fake.connect(project_id)
    store.projects.request_refresh(project_id)
    return project_id


@pytest.fixture(scope="session")
def empty_jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database of jobs with all tables and queues.

    Queues that DBOS finds at its start work at once, those that are made then a second later.
    """
    from tests.backend.site import make_jobs_database

    path = tmp_path_factory.mktemp("template") / "dbos.sqlite"
    make_jobs_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def jobs(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of jobs for a worker's queues, which lose no time between two jobs."""
    from tests.backend.site import POLL_SECONDS

    path = sqlite_path(settings.jobs_database)
    if path is not None:
        shutil.copy(request.getfixturevalue("empty_jobs"), path)
    monkeypatch.setattr("backend.rounds.spreading.POLL_SECONDS", POLL_SECONDS)
    # DBOS waits for this thread at its end, for up to a second. No round is told anything by it.
    polling = "dbos._sys_db.SystemDatabase._notification_listener_polling"
    monkeypatch.setattr(polling, lambda _: None)


@pytest.fixture
def site(
    services: Services,
    fake: FakeLabelStudio,
    clock: Clock,
    project_id: int,
    jobs: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A worker beside Label Studio, with networks so small that a training takes an instant."""
    from tests.backend.site import TINY, Site  # the maths, which most tests do without

    monkeypatch.setattr("backend.rounds.models.learner.train_config", lambda *_: TINY)
    site = Site(services, fake, clock, project_id)
    site.start()
    yield site
    site.stop()


def answering(store: Store) -> Callable[[int], str]:
    """Return what stands for our /setup."""

    def setup(project_id: int) -> str:
        project = store.projects.get(project_id)
        return store.installation.answer(project)

    return setup


def the(store: Store, project_id: int) -> Project:
    project = store.projects.get(project_id)
    assert project is not None
    return project


def drawn(rows: slice = slice(0, 8), *, size: int = 16, label: str = "Lung") -> list[Region]:
    """Return the result of an annotation that covers some rows of the image."""
    mask = np.zeros((1, size, size), bool)
    mask[0, rows] = True
    found = labels.regions(mask, labels.parse(CONFIG), scores=[1.0])
    for region in found:
        region["value"]["brushlabels"] = [label]
    return found
