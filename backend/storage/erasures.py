"""Notes of deleted scans and projects whose traces in files must be erased too."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import sqlalchemy as sa

from backend.storage.database import Database, in_parts, sqlite_path
from backend.storage.tables import (
    WIPED,
    Erasure,
    Meta,
)

PURGE_BUSY_SECONDS = 0.1


class Erasures:
    """The notes' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, after: int = 0) -> list[Erasure]:
        """Return the notes of deleted scans and projects with a number above `after`, in order."""
        query = sa.select(Erasure).where(Erasure.number > after).order_by(Erasure.number)
        with self._database.session() as session:
            return list(session.scalars(query))

    def to_do(self) -> list[Erasure]:
        """Return the notes that are not yet done in files or in the database, in order."""
        left = sa.or_(~Erasure.files_done, ~Erasure.database_done)
        with self._database.session() as session:
            return list(session.scalars(sa.select(Erasure).where(left).order_by(Erasure.number)))

    def note(self, numbers: Sequence[int], **done: bool) -> None:
        """Set `files_done` or `database_done` of some notes."""
        with self._database.session() as session:
            for part in in_parts(numbers):
                session.execute(sa.update(Erasure).where(Erasure.number.in_(part)).values(**done))

    def purge_log(self) -> bool:
        """Remove all traces of deleted rows from SQLite's files; return whether that succeeded.

        It fails while another connection reads or writes; try again then. PostgreSQL manages its
        own files: for it, return True.
        """
        path = sqlite_path(self._database.engine.url.render_as_string(hide_password=False))
        if path is None:
            return True
        wiped = self._wiped()
        try:
            with closing(sqlite3.connect(path, timeout=PURGE_BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                if not wiped:
                    connection.execute("VACUUM")  # only once: it rewrites the whole file
                    self._database.once(WIPED, "yes")
                # Other connections cannot write while this waits, hence the short timeout.
                [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:  # locked
            return False
        return not busy

    def _wiped(self) -> bool:
        """Return whether rows deleted before this release were overwritten too."""
        with self._database.session() as session:
            return session.get(Meta, WIPED) is not None
