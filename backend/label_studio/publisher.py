"""Publish a queue to Label Studio: whole, verified, and always under a new name."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from backend.errors import LabelStudioError, PublishError
from backend.label_studio.client import QUEUE, LabelStudio
from backend.label_studio.credentials import entry_credentials
from backend.label_studio.moments import moment
from backend.label_studio.queue_import import QueueItem
from backend.settings import Settings
from backend.storage.store import Store
from backend.storage.tables import Publication

log = logging.getLogger(__name__)

ATTEMPTS = 3
READ_BACKS = 5
QUIET_SECONDS = 300.0


def name(kind: str, number: int, attempt: int, key: str) -> str:
    """Return a readable version name: `attention-unet r0007.2 9f3c1a`."""
    turn = f".{attempt}" if attempt > 1 else ""
    return f"{kind} r{number:04d}{turn} {key[:6]}"


class Publisher:
    """Publishes the queues of one project; every call may be repeated after a kill."""

    def __init__(self, settings: Settings, store: Store, studio: LabelStudio, project_id: int):
        self._settings = settings
        self._store = store
        self._studio = studio
        self._project_id = project_id

    def publish(
        self, version: Publication, kind: str, queue: Sequence[int], drafts: Mapping[str, Any]
    ) -> str:
        """Write the queue under a name of its own and verify it.

        Args:
            version: Round, model key and labels of the new version; the name is filled in here.
            kind: First word of the name.
            queue: Task ids, first to be served first; those labelled or deleted meanwhile are left
                out.
            drafts: Task id (as text) to regions; empty while no drafts are shown.

        Returns:
            The name; "" if every scan of the queue is labelled or deleted by now.

        Raises:
            PublishError: When Label Studio did not hold the whole queue after ATTEMPTS attempts.
        """
        self._abandon()
        # After a lost or restored DATA_DIR, Label Studio may hold names that are new to us.
        held = self._studio.version_counts(self._project_id)
        for number in range(ATTEMPTS):
            left = self._still_open(queue, everything=number > 0)
            items = [QueueItem(task, drafts.get(str(task), [])) for task in left]
            if not items:
                return ""
            attempt = self._open(version, kind, held)
            if self._arrived(attempt, items):
                attempt.state, attempt.published = "ready", [item.task for item in items]
                self._store.publications.save(attempt)
                return attempt.name
            attempt.state = "abandoned"
            self._store.publications.save(attempt)
        raise PublishError(
            f"The queue did not arrive whole in Label Studio in {ATTEMPTS} attempts.",
            "See Label Studio's log; the next round tries again.",
        )

    def switch(self, version: str) -> None:
        """Make Label Studio serve this version, and read back until it does.

        Raises:
            PublishError: When Label Studio keeps showing another version.
        """
        for _ in range(READ_BACKS):
            entry = self._studio.entry(self._project_id, version)
            if self._switched(entry, version):
                return
            self._studio.switch(self._project_id, version)
            self._studio.rename(entry, version, entry_credentials(self._settings))
        if not self._switched(self._studio.entry(self._project_id, version), version):
            raise PublishError(
                "Label Studio does not keep the live version.",
                "Does another service change the project's model version? The next round retries.",
            )

    def clean(self) -> bool:
        """Delete one old version while nobody labels. Return whether a version was deleted."""
        return bool(self._live() and self._quiet()) and next(self.remove_old(), None) is not None

    def remove_old(self) -> Iterator[tuple[str, int]]:
        """Delete the old versions, a call each; yield the name and the number of predictions.

        The live version and the one before stay, and so do predictions that this service never
        wrote. A Label Studio on SQLite answers nobody during a deletion.
        """
        live = self._live()
        if not live:
            return
        self._studio.entry(self._project_id, live)  # raises if `switch` below would fail
        kept = {live, self._before(live)}
        held = self._studio.version_counts(self._project_id)
        for version in self._store.publications.all(self._project_id):
            if version.name in kept or version.state not in {"previous", "abandoned"}:
                continue
            if version.name in held:
                self._studio.delete_version(self._project_id, version.name)
            # After a deletion Label Studio forgets which version it serves. The state is saved
            # last, so that the deletion is repeated after a kill in between.
            self.switch(self._live())
            version.state = "removed"
            self._store.publications.save(version)
            yield version.name, held.get(version.name, 0)

    def _live(self) -> str:
        project = self._store.projects.get(self._project_id)
        return project.live_version if project else ""

    def _open(self, version: Publication, kind: str, held: Collection[str]) -> Publication:
        """Save the next attempt of this round, under a name that was never used."""
        earlier = [
            v for v in self._store.publications.all(self._project_id) if v.round == version.round
        ]
        attempt = max((v.attempt for v in earlier), default=0) + 1
        key = version.model_key or self._store.installation.id
        while name(kind, version.round, attempt, key) in held:
            attempt += 1
        opened = Publication(
            project_id=self._project_id,
            name=name(kind, version.round, attempt, key),
            round=version.round,
            attempt=attempt,
            model_key=version.model_key,
            labels=version.labels,
            drafts=version.drafts,
            state="publishing",
            published=[],
            created_at=self._store.clock(),
        )
        self._store.publications.save(opened)
        return opened

    def _abandon(self) -> None:
        """Abandon attempts that never went live: Label Studio may hold a part of them."""
        for version in self._store.publications.all(self._project_id):
            if version.state in {"publishing", "ready"}:
                version.state = "abandoned"
                self._store.publications.save(version)

    def _arrived(self, attempt: Publication, items: Sequence[QueueItem]) -> bool:
        why = ""
        try:
            self._studio.import_queue(self._project_id, attempt.name, items)
        except LabelStudioError as error:
            why = f": {error}"
        # If this call fails too, let the error end the round.
        found = self._studio.version_count(self._project_id, attempt.name)
        if found != len(items):
            log.warning("%d of %d scans arrived%s", found, len(items), why)
        return found == len(items)

    def _still_open(self, queue: Sequence[int], *, everything: bool) -> list[int]:
        """Return the tasks of the queue that are neither labelled nor deleted by now.

        Only a list of all tasks shows which are deleted, and Label Studio refuses a queue with a
        deleted task. So the first attempt reads the changed tasks, and the next one all tasks.
        """
        project = self._store.projects.get(self._project_id)
        since = project.seen.get("newest_update", "") if project and not everything else ""
        pages = self._studio.tasks(self._project_id, since=since)
        labelled = {task["id"]: bool(task["is_labeled"]) for page in pages for task in page}
        return [task for task in queue if not labelled.get(task, not since)]

    def _switched(self, entry: Mapping[str, Any], version: str) -> bool:
        if entry.get("title") != version:
            return False
        info = self._studio.project(self._project_id)
        return info.model_version == version and info.sampling == QUEUE

    def _before(self, live: str) -> str:
        """Return the version that was live before this one."""
        shown = [
            v
            for v in self._store.publications.all(self._project_id)
            if v.live_at and v.name != live
        ]
        return max(shown, key=_live_at).name if shown else ""

    def _quiet(self) -> bool:
        """Return whether nobody submitted anything for five minutes.

        A submit in the future counts by its distance: the clock that stamped it was ahead.
        """
        newest = self._studio.newest_update(self._project_id)
        return abs(self._store.clock() - moment(newest)) >= QUIET_SECONDS if newest else True


def _live_at(version: Publication) -> float:
    return version.live_at
