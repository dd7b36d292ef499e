"""The records of rounds."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from backend.storage.database import Database
from backend.storage.records import RoundRecord
from backend.storage.tables import Round


class Rounds:
    """The rounds' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_workflow(self, project_id: int, workflow: str) -> Round:
        """Return the round of a workflow; a new workflow opens a round with the next number."""
        with self._database.session() as session:
            query = sa.select(Round).where(Round.workflow == workflow)
            row = session.scalars(query).one_or_none()
            if row is None:
                _end_rounds(
                    session,
                    project_id,
                    self._database.clock(),
                    "It was cut off, and started again.",
                )
                last = session.scalar(
                    sa.select(sa.func.max(Round.number)).where(Round.project_id == project_id)
                )
                row = Round(
                    project_id=project_id,
                    number=(last or 0) + 1,
                    workflow=workflow,
                    started_at=self._database.clock(),
                )
                session.add(row)
            return row

    def open(self, project_id: int) -> int:
        """Return the number of the round under way, 0 for none."""
        query = sa.select(sa.func.max(Round.number)).where(
            Round.project_id == project_id, Round.ended_at == 0
        )
        with self._database.session() as session:
            return session.scalar(query) or 0

    def abort(self, project_id: int, error: str) -> None:
        """End the open rounds of a project, with the reason."""
        with self._database.session() as session:
            _end_rounds(session, project_id, self._database.clock(), error)

    def add_seconds(self, project_id: int, number: int, step: str, seconds: float) -> None:
        """Note how long a step of a round took."""
        with self._database.session() as session:
            row = session.get_one(Round, (project_id, number))
            times = {**row.record.seconds, step: round(seconds, 2)}
            row.record = row.record.changed(seconds=times)

    def close(self, project_id: int, number: int, version: str) -> None:
        """End a round, and note the publication that it made: "" for none."""
        with self._database.session() as session:
            row = session.get_one(Round, (project_id, number))
            row.record = row.record.changed(version=version)
            row.ended_at = self._database.clock()

    def last(self, project_id: int) -> int:
        """Return the number of the newest round, 0 before the first."""
        query = sa.select(sa.func.max(Round.number)).where(Round.project_id == project_id)
        with self._database.session() as session:
            return session.scalar(query) or 0

    def all(self, project_id: int) -> list[Round]:
        """Return every round, first to last."""
        return self._database.of(Round, project_id, Round.number)

    def records(self) -> dict[int, list[RoundRecord]]:
        """Return the records of all rounds, by project."""
        by_project: dict[int, list[RoundRecord]] = {}
        with self._database.session() as session:
            for project_id, record in session.execute(sa.select(Round.project_id, Round.record)):
                by_project.setdefault(project_id, []).append(record)
        return by_project


def _end_rounds(session: Session, project_id: int, now: float, error: str) -> None:
    open_rounds = sa.select(Round).where(Round.project_id == project_id, Round.ended_at == 0)
    for row in session.scalars(open_rounds):
        row.record = row.record.changed(error=error)
        row.ended_at = now
