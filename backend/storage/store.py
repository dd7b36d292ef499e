"""The store: one database, divided by subject.

The web process and the worker share the database. Transactions are short: none stays open during a
call to Label Studio, the fetch of an image or the training of a network.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import sqlalchemy as sa
from sqlalchemy.orm import Session

from backend import PROGRAM
from backend.errors import ConfigError
from backend.storage import schema
from backend.storage.annotators import Annotators
from backend.storage.database import (
    WEB_BUSY_MS,
    WORKER_BUSY_MS,
    Database,
    open_database,
    sqlite_path,
)
from backend.storage.embeddings import Embeddings
from backend.storage.erasures import Erasures
from backend.storage.installation import Installation
from backend.storage.labels import Labels
from backend.storage.notices import Notices
from backend.storage.projects import Projects
from backend.storage.publications import Publications
from backend.storage.rounds import Rounds
from backend.storage.scans import Scans
from backend.storage.study_results import StudyResults
from backend.storage.workers import Workers


class Store:
    """The database, divided by subject."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.installation = Installation(database)
        self.projects = Projects(database)
        self.scans = Scans(database)
        self.labels = Labels(database)
        self.annotators = Annotators(database)
        self.embeddings = Embeddings(database)
        self.publications = Publications(database)
        self.rounds = Rounds(database)
        self.workers = Workers(database)
        self.erasures = Erasures(database)
        self.notices = Notices(database)
        self.studies = StudyResults(database)

    @property
    def engine(self) -> sa.Engine:
        """The connections to the database."""
        return self.database.engine

    @property
    def clock(self) -> Callable[[], float]:
        """The clock by which rows are dated."""
        return self.database.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self.database.clock = clock

    def session(self) -> AbstractContextManager[Session]:
        """Return one short transaction; errors of the database become StorageError."""
        return self.database.session()

    def create(self) -> None:
        """Make the tables, or bring them up to date.

        Raises:
            ConfigError: When a release with another schema wrote the database.
            StorageError: When the database does not answer.
        """
        schema.create(self.database)

    def ping(self) -> None:
        """Read one row.

        Raises:
            StorageError: When the database does not answer.
        """
        self.database.ping()

    def close(self) -> None:
        """Close the connections to the database."""
        self.database.engine.dispose()


def open_store(url: str, *, busy_ms: int = WEB_BUSY_MS) -> Store:
    """Open the database.

    Raises:
        ConfigError: When DATABASE_URL is not a database URL, or its driver is not installed.
    """
    return Store(open_database(url, busy_ms=busy_ms))


def open_known(url: str) -> Store:
    """Open the existing database of the service, for a command.

    Raises:
        ConfigError: When it does not exist, or a release with another schema wrote it.
        StorageError: When it cannot be opened.
    """
    path = sqlite_path(url)
    if path and not path.exists():
        raise ConfigError(
            f"There is no database yet: {path.parent} holds no {path.name}.",
            f"Point DATA_DIR at the folder of the service, or start it: {PROGRAM} start",
        )
    store = open_store(url, busy_ms=WORKER_BUSY_MS)
    store.create()
    return store
