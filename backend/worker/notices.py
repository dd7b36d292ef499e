"""Notices: tells people of events by a webhook, once for each event.

The events are read from the database, on a thread of the worker that leads: rounds neither wait for
a notice nor fail with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import httpx

from backend import logs
from backend.errors import FirstlightError, reason
from backend.settings import Settings
from backend.storage.store import Store
from backend.storage.tables import Notice

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 10.0
PAUSES = (10.0, 60.0, 300.0, 1800.0)  # between two tries; after the last one a notice is given up
NEWS_SECONDS = 86_400.0  # an older event is no news, as after the first start with NOTIFY_URL
LASTING = 3  # failures in a row; fewer are mostly a restart of Label Studio

# Titles of projects, names of files and messages of errors stay out: they may tell of patients.
TEXTS = {
    "queue-ready": "The first queue of project {} is ready: people can label now.",
    "round-failed": "Rounds of project {} keep failing. Its page says why.",
    "can-stop": "Labelling of project {} can stop: more labels are not expected to help.",
    "project-vanished": "Label Studio has no project {} any more, or hides it from Firstlight.",
}

Event = tuple[int, str]  # the project and the kind


def run(settings: Settings, store: Store, leads: Callable[[], bool], stop: threading.Event) -> None:
    """Send notices until the worker stops, while it leads."""
    say = logs.Once(log)
    with httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False) as client:
        notifier = Notifier(settings, store, client)
        while not stop.wait(LOOK_SECONDS):
            try:
                if leads():
                    notifier.look()
                say("")
            except FirstlightError as error:
                say(f"notices wait: {error}")
            except Exception:
                # Go on: nothing would report the end of this thread.
                log.exception("notices failed unexpectedly")


class Notifier:
    """Compares the events that last with those that people were told about."""

    def __init__(self, settings: Settings, store: Store, client: httpx.Client) -> None:
        self._settings = settings
        self._store = store
        self._client = client

    def look(self) -> None:
        """Send what is due. Never raises for a notice that could not be sent.

        Raises:
            StorageError: When the database does not answer.
        """
        lasting, known = dict(self._events()), self._store.notices.all()
        for event in known.keys() - lasting.keys():
            self._store.notices.drop(*event)
        now = self._store.clock()
        for (project_id, kind), since in lasting.items():
            notice = known.get((project_id, kind))
            if notice is None and now - since <= NEWS_SECONDS:
                notice = Notice(project_id=project_id, kind=kind, since=since, tries=0, sent=False)
                self._try(notice)
            elif notice is not None and _is_due(notice, now):
                self._try(notice)

    def _events(self) -> Iterator[tuple[Event, float]]:
        """Yield each event that lasts, and since when."""
        first = self._store.publications.first_live()
        for project in self._store.projects.all():
            if project.id in first:
                yield (project.id, "queue-ready"), first[project.id]
            if project.failures >= LASTING:
                yield (project.id, "round-failed"), project.problem_at
            if project.can_stop_since:
                yield (project.id, "can-stop"), project.can_stop_since
            if project.vanished_at:
                yield (project.id, "project-vanished"), project.vanished_at

    def _try(self, notice: Notice) -> None:
        # Count first: after a kill in the middle of it the bound still holds.
        last = notice.tries == len(PAUSES)
        notice.next_try_at = self._store.clock() + (0.0 if last else PAUSES[notice.tries])
        notice.tries += 1
        self._store.notices.save(notice)
        with logs.context(project=notice.project_id):
            why = self._post(notice)
            if not why:
                notice.sent = True
                self._store.notices.save(notice)
            elif last:
                log.warning("the notice %s is given up: %s", notice.kind, why)
            elif notice.tries == 1:
                log.warning("the notice %s will be tried again: %s", notice.kind, why)

    def _post(self, notice: Notice) -> str:
        """Send a notice; return why that failed, "" if it did not. Names no address: a secret."""
        url = self._settings.notify_url.get_secret_value()
        try:
            answer = self._client.post(url, json=self._content(notice))
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return f"NOTIFY_URL does not answer ({reason(error)})"
        return "" if answer.is_success else f"NOTIFY_URL answers {answer.status_code}"

    def _content(self, notice: Notice) -> dict[str, object]:
        page = self._settings.page(notice.project_id)
        since = datetime.fromtimestamp(notice.since, UTC).isoformat(timespec="seconds")
        installation = self._store.installation.id
        return {
            # The same for every try: a receiver may drop a repetition.
            "id": f"{installation}-{notice.project_id}-{notice.kind}-{notice.since:.0f}",
            "event": notice.kind,
            "project": notice.project_id,
            "since": since,
            "url": page,
            "text": f"{TEXTS[notice.kind].format(notice.project_id)} {page}",
        }


def _is_due(notice: Notice, now: float) -> bool:
    return not notice.sent and notice.tries <= len(PAUSES) and now >= notice.next_try_at
