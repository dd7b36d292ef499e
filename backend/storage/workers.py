"""The running workers and their heartbeats."""

from __future__ import annotations

import socket

import sqlalchemy as sa

from backend.storage.database import Database
from backend.storage.tables import (
    Worker,
)

# Longer than the pause between heartbeats, to allow for machines whose clocks differ.
LIVELY_SECONDS = 60.0


class Workers:
    """The workers' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Worker]:
        """Return the workers that have not been dismissed, longest running first."""
        query = sa.select(Worker).order_by(Worker.started_at, Worker.name)
        with self._database.session() as session:
            return list(session.scalars(query))

    def join(self, name: str, host: str, release: str) -> None:
        """Add the row of a worker that starts."""
        now = self._database.clock()
        row = Worker(name=name, host=host, release=release, started_at=now, beat_at=now)
        with self._database.session() as session:
            session.add(row)

    def beat(self, name: str) -> bool:
        """Count a heartbeat of a worker; return False if the worker was dismissed."""
        with self._database.session() as session:
            counted = session.execute(
                sa.update(Worker)
                .where(Worker.name == name)
                .values(beats=Worker.beats + 1, beat_at=self._database.clock())
            )
            return counted.rowcount == 1  # type: ignore[attr-defined,no-any-return]

    def dismiss(self, name: str, beats: int | None = None) -> None:
        """Delete the row of a worker; with `beats`, only if its count is still that number."""
        gone = sa.delete(Worker).where(Worker.name == name)
        with self._database.session() as session:
            session.execute(gone if beats is None else gone.where(Worker.beats == beats))

    def clock(self) -> float:
        """Return the time of the clock that dates heartbeats."""
        return self._database.clock()


def works_here(workers: Workers) -> bool:
    """Return whether a worker of this machine or container had a heartbeat in the last minute."""
    return any(worker.host == socket.gethostname() for worker in lively(workers))


def lively(workers: Workers) -> list[Worker]:
    """Return the workers whose last heartbeat is under 60 s old by this machine's clock."""
    listed = workers.all()
    return [worker for worker in listed if workers.clock() - worker.beat_at < LIVELY_SECONDS]
