"""Hints that a project has changed: written at once, or remembered until they can be."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from backend import logs
from backend.errors import StorageError
from backend.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wish:
    """What is asked for beside a refresh."""

    refresh: bool = False
    full: bool = False
    sighting: bool = False  # of a project that may have an entry of ours by now
    train: bool = False

    def __or__(self, other: _Wish) -> _Wish:
        return _Wish(
            self.refresh or other.refresh,
            self.full or other.full,
            self.sighting or other.sighting,
            self.train or other.train,
        )


class Hints:
    """The web process's only writes. Label Studio never repeats an event, so none may be lost."""

    def __init__(self, store: Store, *, retry_seconds: float = 1.0) -> None:
        self._store = store
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._pending: dict[int, _Wish] = {}
        self._retrying: threading.Thread | None = None
        self._closed = threading.Event()

    def want(self, project_id: int, *, full: bool = False, train: bool = False) -> bool:
        """Ask for a refresh as `Store.want` does; return whether it is stored yet. Never raises."""
        return self._leave(project_id, _Wish(refresh=True, full=full, train=train))

    def sight(self, project_id: int) -> None:
        """Note a project as `Store.sight` does. Never raises."""
        self._leave(project_id, _Wish(sighting=True))

    def _leave(self, project_id: int, wish: _Wish) -> bool:
        with self._lock:
            waiting = project_id in self._pending
        # A database that just refused is not waited for again within the same request.
        if not waiting:
            problem = self._write(project_id, wish)
            if not problem:
                return True
            with logs.context(project=project_id):
                log.warning("a hint waits in memory: %s", problem)
        self._remember(project_id, wish)
        return False

    def close(self) -> None:
        """Try once more to store what is pending, and end the thread."""
        self._closed.set()
        if self._retrying is not None:
            self._retrying.join()

    def _write(self, project_id: int, wish: _Wish) -> str:
        """Return why the hint could not be stored, "" when it could."""
        try:
            if wish.sighting:
                self._store.sight(project_id)
            if wish.refresh:
                self._store.want(project_id, full=wish.full, train=wish.train)
        except StorageError as error:
            return str(error)
        return ""

    def _remember(self, project_id: int, wish: _Wish) -> None:
        with self._lock:
            self._pending[project_id] = wish | self._pending.get(project_id, _Wish())
            if self._retrying is None and not self._closed.is_set():
                self._retrying = threading.Thread(target=self._retry, name="hints", daemon=True)
                self._retrying.start()

    def _retry(self) -> None:
        while not self._idle():
            self._closed.wait(self._retry_seconds)
            last = self._closed.is_set()
            self._flush()
            if last:
                return

    def _idle(self) -> bool:
        with self._lock:
            if not self._pending:
                self._retrying = None
            return not self._pending

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        for project_id, wish in pending.items():
            if self._write(project_id, wish):
                with self._lock:
                    self._pending[project_id] = wish | self._pending.get(project_id, _Wish())
