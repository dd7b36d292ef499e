"""What studies found out about projects in idle time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from backend.storage.database import Database
from backend.storage.tables import StudyResult


class StudyResults:
    """The rows of the studies' results, one for each project and study."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def digest(self, project_id: int, name: str) -> str:
        """Return the digest of what a study looked at last, "" before its first result."""
        query = sa.select(StudyResult.digest).where(
            StudyResult.project_id == project_id, StudyResult.name == name
        )
        with self._database.session() as session:
            return session.execute(query).scalar_one_or_none() or ""

    def record(self, project_id: int, name: str) -> dict[str, Any]:
        """Return the result of a study, empty before the first."""
        with self._database.session() as session:
            row = session.get(StudyResult, (project_id, name))
            return row.record if row else {}

    def save(self, project_id: int, name: str, digest: str, record: Mapping[str, Any]) -> None:
        """Store the result of a study in place of an earlier one."""
        row = StudyResult(project_id=project_id, name=name, digest=digest, record=dict(record))
        with self._database.session() as session:
            session.merge(row)
