"""Requests to refresh a project: stored at once, or kept in memory until they can be stored."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from backend import logs
from backend.errors import StorageError
from backend.storage.store import Store
from backend.storage.tables import Project
from backend.web.schemas import WebhookIn

log = logging.getLogger(__name__)


REFUSALS_SECONDS = 60.0


@dataclass(frozen=True)
class _Request:
    """What the worker is asked to do for a project."""

    refresh: bool = False
    full: bool = False
    sighting: bool = False  # the project may have an entry of ours by now
    train: bool = False

    def __or__(self, other: _Request) -> _Request:
        return _Request(
            self.refresh or other.refresh,
            self.full or other.full,
            self.sighting or other.sighting,
            self.train or other.train,
        )


class RefreshRequests:
    """Stores requests for the worker. Label Studio never repeats an event, so none may be lost."""

    def __init__(self, store: Store, *, retry_seconds: float = 1.0) -> None:
        self._store = store
        self._retry_seconds = retry_seconds
        # One write at a time: threads that meet at SQLite's lock sleep longer than a write takes.
        self._writing = threading.Lock()
        self._lock = threading.Lock()  # of what follows
        self._pending: dict[int, _Request] = {}
        self._retrying: threading.Thread | None = None
        self._closed = threading.Event()

    def request(self, project_id: int, *, full: bool = False, train: bool = False) -> bool:
        """Ask for a refresh as `Projects.request_refresh` does. Never raises.

        Returns:
            Whether the request is stored already.
        """
        return self._submit(project_id, _Request(refresh=True, full=full, train=train))

    def sight(self, project_id: int) -> None:
        """Note a project as `Projects.sight` does. Never raises."""
        self._submit(project_id, _Request(sighting=True))

    def _submit(self, project_id: int, request: _Request) -> bool:
        self._remember(project_id, request)
        with self._writing:
            with self._lock:
                # While requests wait in memory, do not wait for the database again.
                if self._retrying is not None:
                    return False
                merged = self._pending.pop(project_id, None)
            if merged is None:
                return True  # the thread before this one stored it with its own
            problem = self._write(project_id, merged)
            if not problem:
                return True
            with logs.context(project=project_id):
                log.warning("a request waits in memory: %s", problem)
            self._remember(project_id, merged)
            self._start_retrying()
            return False

    def close(self) -> None:
        """Try once more to store the pending requests, and end the thread."""
        self._closed.set()
        if self._retrying is not None:
            self._retrying.join()

    def _write(self, project_id: int, request: _Request) -> str:
        """Return why the request could not be stored, "" when it could."""
        try:
            if request.sighting:
                self._store.projects.sight(project_id)
            if request.refresh:
                self._store.projects.request_refresh(
                    project_id, full=request.full, train=request.train
                )
        except StorageError as error:
            return str(error)
        return ""

    def _remember(self, project_id: int, request: _Request) -> None:
        with self._lock:
            self._pending[project_id] = request | self._pending.get(project_id, _Request())

    def _start_retrying(self) -> None:
        with self._lock:
            if self._retrying is None and not self._closed.is_set():
                self._retrying = threading.Thread(
                    target=self._retry, name="refresh requests", daemon=True
                )
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
        for project_id, request in pending.items():
            with self._writing:
                problem = self._write(project_id, request)
            if problem:
                self._remember(project_id, request)


class Refusals:
    """Reports events that came without the secret, in the log and on their project's page.

    Anybody can send such events, so the log and each page are written at most once a minute.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[int, float] = {}  # when, by project id; 0 is the log

    def note(self, body: bytes) -> None:
        """Report a refused event, on its project's page too if we know it. Never raises."""
        event = _event(body)
        project = None
        if event.project is not None and event.is_of_webhook:
            with suppress(StorageError):
                project = self._store.projects.get(event.project)
        with logs.context(project=project.id if project else None):
            if self._is_due(0):
                log.warning("an event was refused: it came without the webhook secret")
        if project is not None and not project.webhook_refused_at and self._is_due(project.id):
            self._write(project, self._store.clock())

    def over(self, project: Project) -> None:
        """Clear the report on the project's page: an event of the project was accepted."""
        if project.webhook_refused_at:
            self._write(project, 0.0)

    def _write(self, project: Project, refused_at: float) -> None:
        with suppress(StorageError):  # the next event writes it again
            self._store.projects.update(project.id, webhook_refused_at=refused_at)

    def _is_due(self, key: int) -> bool:
        now = self._clock()
        with self._lock:
            if now - self._told.get(key, float("-inf")) < REFUSALS_SECONDS:
                return False
            self._told[key] = now
            return True


def _event(body: bytes) -> WebhookIn:
    """Return the event in a body; an empty event if the body is no JSON object."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        event = None
    return WebhookIn.read(event if isinstance(event, dict) else {})
