"""The results of studies in idle time, one for each study of a project."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from backend.storage.artifacts import digest
from backend.storage.database import Database
from backend.storage.tables import StudyResult

SELECTION_GAIN = "selection-gain"


class StudyResults:
    """The rows of study results."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, project_id: int, name: str) -> dict[str, Any] | None:
        """Return what a study stored last; None before its first run."""
        with self._database.session() as session:
            row = session.get(StudyResult, (project_id, name))
            return row.record if row else None

    def save(self, project_id: int, name: str, record: dict[str, Any]) -> None:
        """Store the record of a study in place of the last one."""
        row = StudyResult(project_id=project_id, name=name, digest=digest(record), record=record)
        with self._database.session() as session:
            session.merge(row)

    def digests(self, project_id: int) -> list[str]:
        """Return the digest of each study's record, by the name of the study."""
        query = sa.select(StudyResult.digest).where(StudyResult.project_id == project_id)
        with self._database.session() as session:
            return list(session.scalars(query.order_by(StudyResult.name)))
