"""Which workers are alive: each counts beats in the database, and a silent one counts as dead."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence

from backend.storage.tables import Worker
from backend.storage.workers import Workers

BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0


class Membership:
    """This worker among the workers that share a database, and what it sees of the others.

    Clocks of machines differ, so they are never compared. A worker is silent when its count of
    beats has not changed for SILENT_SECONDS on the observer's own clock.
    """

    def __init__(
        self, workers: Workers, release: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.release = release
        self._workers = workers
        self._clock = clock
        self._last: dict[str, tuple[int, float]] = {}  # by worker: its beats, and since when
        self._looked = clock()

    def join(self, *, alone: bool) -> None:
        """Register this worker.

        Args:
            alone: Whether a lock proves that no other worker runs.
        """
        if alone:
            for worker in self._workers.all():
                self._workers.dismiss(worker.name)
        self._workers.join(self.name, socket.gethostname(), self.release)

    def beat(self) -> bool:
        """Show that this worker is alive; return False if another worker has dismissed it."""
        return self._workers.beat(self.name)

    def leave(self) -> None:
        """Deregister this worker, so that the others take over its rounds."""
        self._workers.dismiss(self.name)

    def living(self) -> list[str]:
        """Dismiss silent workers; return the names of the others and our own, oldest first."""
        workers = self._workers.all()
        if self._clock() - self._looked > 3 * BEAT_SECONDS:
            # The database or this machine stood still, so beats are missing: start anew.
            self._last.clear()
        self._looked = self._clock()
        for worker in workers:
            if self._is_silent(worker):
                self._workers.dismiss(worker.name, worker.beats)
        return [worker.name for worker in self._workers.all()]

    def releases(self) -> set[str]:
        """Return the releases of all registered workers."""
        return {worker.release for worker in self._workers.all()}

    def leads(self) -> bool:
        """Return whether this worker leads, and does the work that only one worker may do."""
        return self._is_first(self._workers.all())

    def leads_release(self) -> bool:
        """Return whether this worker runs longest of those of its release."""
        everyone = self._workers.all()
        return self._is_first([worker for worker in everyone if worker.release == self.release])

    def _is_first(self, workers: Sequence[Worker]) -> bool:
        return [worker.name for worker in workers[:1]] == [self.name]

    def _is_silent(self, worker: Worker) -> bool:
        now = self._clock()
        beats, since = self._last.get(worker.name, (-1, now))
        if beats != worker.beats:
            self._last[worker.name] = worker.beats, now
            return False
        return worker.name != self.name and now - since >= SILENT_SECONDS
