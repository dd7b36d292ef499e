"""The events that people are told about, so that each is told once, restarts or not."""

from __future__ import annotations

import sqlalchemy as sa

from backend.storage.database import Database
from backend.storage.tables import Notice


class Notices:
    """The notices' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[tuple[int, str], Notice]:
        """Return every notice by project and kind."""
        with self._database.session() as session:
            return {(row.project_id, row.kind): row for row in session.scalars(sa.select(Notice))}

    def save(self, notice: Notice) -> None:
        """Store a notice."""
        with self._database.session() as session:
            session.merge(notice)

    def drop(self, project_id: int, kind: str) -> None:
        """Delete the notice of an event that is over."""
        with self._database.session() as session:
            session.execute(
                sa.delete(Notice).where(Notice.project_id == project_id, Notice.kind == kind)
            )
