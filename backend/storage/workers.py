"""Which workers live."""

from __future__ import annotations

import socket

import sqlalchemy as sa

from backend.storage.database import Database
from backend.storage.tables import (
    Worker,
)

# Longer than silence lasts: whoever has only the hour to go by allows for clocks that differ.
LIVELY_SECONDS = 60.0


class Workers:
    """The workers' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Worker]:
        """Return the workers that nobody has taken for gone, longest at work first."""
        query = sa.select(Worker).order_by(Worker.started_at, Worker.name)
        with self._database.session() as session:
            return list(session.scalars(query))

    def join(self, name: str, host: str, release: str) -> None:
        """Note that a worker begins."""
        now = self._database.clock()
        row = Worker(name=name, host=host, release=release, started_at=now, beat_at=now)
        with self._database.session() as session:
            session.add(row)

    def beat(self, name: str) -> bool:
        """Count a beat of a worker; return False when it was taken for gone."""
        with self._database.session() as session:
            counted = session.execute(
                sa.update(Worker)
                .where(Worker.name == name)
                .values(beats=Worker.beats + 1, beat_at=self._database.clock())
            )
            return counted.rowcount == 1  # type: ignore[attr-defined,no-any-return]

    def dismiss(self, name: str, beats: int | None = None) -> None:
        """Take a worker for gone, unless it has beaten since that many beats."""
        gone = sa.delete(Worker).where(Worker.name == name)
        with self._database.session() as session:
            session.execute(gone if beats is None else gone.where(Worker.beats == beats))

    def clock(self) -> float:
        """Return the time by which beats are dated."""
        return self._database.clock()


def works_here(workers: Workers) -> bool:
    """Return whether a worker of this machine, or of this container, shows signs of life."""
    return any(one.host == socket.gethostname() for one in lively(workers))


def lively(workers: Workers) -> list[Worker]:
    """Return the workers that beat within the last minute, by the hour of this machine."""
    return [one for one in workers.all() if workers.clock() - one.beat_at < LIVELY_SECONDS]
