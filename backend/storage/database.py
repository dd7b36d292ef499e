"""One database, SQLite or PostgreSQL, in short transactions."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.orm import Session

from backend.errors import ConfigError, StorageError, reason
from backend.storage.tables import Meta

WEB_BUSY_MS = 500
WORKER_BUSY_MS = 10_000
CREATION = 0xF125  # id of the PostgreSQL lock under which tables are made
GONE_SECONDS = 20  # until a silent PostgreSQL counts as gone; shorter than workers wait for it


class Database:
    """A database and the clock by which its rows are dated."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock
        # A command does not close its database, and Python 3.13 warns of connections left open.
        # Not at exit: SQLite's files of a forked process belong to its parent.
        weakref.finalize(self, engine.dispose).atexit = False

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One short transaction; errors of the database become StorageError."""
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except sa.exc.SQLAlchemyError as error:
            raise explained(error) from error

    def ping(self) -> None:
        """Read one row.

        Raises:
            StorageError: When the database does not answer.
        """
        with self.session() as session:
            session.get(Meta, "installation")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process at a time make tables: two at once would lock each other out."""
        path = sqlite_path(self.engine.url.render_as_string(hide_password=False))
        if path:
            with FileLock(f"{path}.lock"):
                yield
        elif self.engine.dialect.name == "postgresql":
            with self.engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATION)))
                yield
        else:  # SQLite in memory: no other process sees it
            yield

    def once(self, key: str, value: str) -> str:
        """Return the stored value of a key; the first call for a key stores `value`."""
        with self.session() as session:
            row = session.get(Meta, key)
            if row is not None:
                return row.value
        try:
            with self.session() as session:
                session.add(Meta(key=key, value=value))
            return value
        except StorageError:
            with self.session() as session:
                other = session.get(Meta, key)
                if other is None:
                    raise
                return other.value

    def of(self, table: Any, project_id: int, order: Any) -> list[Any]:
        """Return all rows of a project, in this order."""
        query = sa.select(table).where(table.project_id == project_id).order_by(order)
        with self.session() as session:
            return list(session.scalars(query))


def open_database(url: str, *, busy_ms: int = WEB_BUSY_MS) -> Database:
    """Open the database; on SQLite with write-ahead logging and a bounded wait for locks.

    Raises:
        ConfigError: When DATABASE_URL is not a database URL, or its driver is not installed.
    """
    try:
        # Hide the parameters, which are addresses of scans and masks, from error messages.
        # Test a kept connection before use: a restarted server has dropped it.
        engine = sa.create_engine(
            url, hide_parameters=True, pool_pre_ping=True, connect_args=bounds(url)
        )
    except (sa.exc.ArgumentError, ImportError) as error:
        raise ConfigError(
            f"DATABASE_URL cannot be used ({reason(error)}).",
            "Write sqlite:///file or postgresql+psycopg://user:password@host/database.",
        ) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", lambda connection, _: _tune(connection, busy_ms))
    return Database(engine)


def is_damage(error: Exception) -> bool:
    """Return whether a database failed because its file is damaged."""
    # SQLite's driver raises the base class for damage, and subclasses for all other errors.
    return type(error) is sa.exc.DatabaseError


def explained(error: sa.exc.SQLAlchemyError) -> StorageError:
    """Return an error of the database in plain words, with its fix."""
    if isinstance(error, sa.exc.IntegrityError):
        return StorageError(
            "Two rows of the database contradict each other (IntegrityError).",
            "This is a defect of Firstlight: please report it with the worker's log. The backend "
            "reads everything from Label Studio again.",
        )
    if is_damage(error):
        return StorageError(
            "The database is damaged: a part of its file cannot be read.",
            "Stop the service and restore a backup of firstlight.sqlite. Without a backup, move "
            "the file away: every label is safe in Label Studio, and the rest is made anew.",
        )
    return StorageError(
        f"The database did not answer ({reason(error)}).",
        "Check DATA_DIR (free space, permissions) or DATABASE_URL. The service tries again by "
        "itself.",
    )


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for another database."""
    parsed = sa.make_url(url)
    on_disk = parsed.get_backend_name() == "sqlite" and parsed.database
    return Path(parsed.database) if on_disk and parsed.database else None


def worker_lock(database: Path) -> Path:
    """Return the lock file of the one worker that a SQLite database allows.

    It lies beside the database, so that workers with different DATA_DIRs meet there.
    """
    return database.resolve().with_name(f"{database.name}.worker.lock")


def bounds(url: str) -> dict[str, int]:
    """Return timeouts for PostgreSQL; by default a silent server blocks for minutes."""
    if sa.make_url(url).get_backend_name() != "postgresql":
        return {}
    return {"connect_timeout": 5, "tcp_user_timeout": 1000 * GONE_SECONDS}


def _tune(connection: Any, busy_ms: int) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {busy_ms:d}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA secure_delete = ON")  # deleted rows are overwritten, not just unlinked
    cursor.close()


def among(table: Any, project_id: int, ids: Sequence[int]) -> sa.Select[Any]:
    """Return the query for these rows of a project."""
    return sa.select(table).where(table.project_id == project_id, table.id.in_(ids))


def in_parts(ids: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """Yield slices short enough for one IN (...) in every database."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
