"""What each round did, and when."""

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
        """Return the round of a workflow, opening it with the next number if it is new."""
        with self._database.session() as session:
            query = sa.select(Round).where(Round.workflow == workflow)
            found = session.scalars(query).one_or_none()
            if found is None:
                _end_rounds(
                    session, project_id, self._database.clock(), "It was cut off, and done anew."
                )
                last = session.scalar(
                    sa.select(sa.func.max(Round.number)).where(Round.project_id == project_id)
                )
                found = Round(
                    project_id=project_id,
                    number=(last or 0) + 1,
                    workflow=workflow,
                    started_at=self._database.clock(),
                )
                session.add(found)
            return found

    def open(self, project_id: int) -> int:
        """Return the number of the round under way, 0 for none."""
        query = sa.select(sa.func.max(Round.number)).where(
            Round.project_id == project_id, Round.ended_at == 0
        )
        with self._database.session() as session:
            return session.scalar(query) or 0

    def abort(self, project_id: int, error: str) -> None:
        """Give rounds that were cut off an end, and the reason."""
        with self._database.session() as session:
            _end_rounds(session, project_id, self._database.clock(), error)

    def add_seconds(self, project_id: int, number: int, step: str, seconds: float) -> None:
        """Note how long a step of a round took."""
        with self._database.session() as session:
            found = session.get_one(Round, (project_id, number))
            times = {**found.record.seconds, step: round(seconds, 2)}
            found.record = found.record.changed(seconds=times)

    def close(self, project_id: int, number: int, version: str) -> None:
        """Give a round an end, and note what it published: "" for nothing."""
        with self._database.session() as session:
            found = session.get_one(Round, (project_id, number))
            found.record = found.record.changed(version=version)
            found.ended_at = self._database.clock()

    def last(self, project_id: int) -> int:
        """Return the number of the newest round, 0 before the first."""
        query = sa.select(sa.func.max(Round.number)).where(Round.project_id == project_id)
        with self._database.session() as session:
            return session.scalar(query) or 0

    def all(self, project_id: int) -> list[Round]:
        """Return every round, first to last."""
        return self._database.of(Round, project_id, Round.number)

    def records(self) -> dict[int, list[RoundRecord]]:
        """Return what is recorded of every round, by project."""
        found: dict[int, list[RoundRecord]] = {}
        with self._database.session() as session:
            for project_id, record in session.execute(sa.select(Round.project_id, Round.record)):
                found.setdefault(project_id, []).append(record)
        return found


def _end_rounds(session: Session, project_id: int, now: float, error: str) -> None:
    open_rounds = sa.select(Round).where(Round.project_id == project_id, Round.ended_at == 0)
    for found in session.scalars(open_rounds):
        found.record = found.record.changed(error=error)
        found.ended_at = now
