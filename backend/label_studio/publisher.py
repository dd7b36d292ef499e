"""A queue goes out to Label Studio: whole, verified, and never under a name used before."""

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
        """Write the queue under a name of its own and verify it; return that name.

        Args:
            version: Round, model key and labels of the new version; the name is filled in here.
            kind: First word of the name.
            queue: Task ids, first to be served first; those labelled or deleted meanwhile are left
                out.
            drafts: Task id (as text) to regions; empty while no drafts are shown.

        Returns "" when none of them is open any more: there is nothing left to serve.

        Raises:
            PublishError: When the queue did not arrive whole, several times over.
        """
        self._abandon()
        # After a lost or restored DATA_DIR, names that are new to us may be old to Label Studio.
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
                "Is another service changing the project's model version? The next round retries.",
            )

    def clean(self) -> bool:
        """Delete one version nobody needs; only while nobody labels. Return whether one went."""
        return bool(self._live() and self._quiet()) and next(self.remove_old(), None) is not None

    def remove_old(self) -> Iterator[tuple[str, int]]:
        """Delete the versions nobody needs, a call each; yield name and number of predictions.

        The live version and the one before stay, and so does what this service never wrote. A
        SQLite Label Studio stands still while a version goes.
        """
        live = self._live()
        if not live:
            return
        self._studio.entry(self._project_id, live)  # without it nothing could be switched back
        kept = {live, self._before(live)}
        held = self._studio.version_counts(self._project_id)
        for version in self._store.publications.all(self._project_id):
            if version.name in kept or version.state not in {"previous", "abandoned"}:
                continue
            if version.name in held:
                self._studio.delete_version(self._project_id, version.name)
            # With any version Label Studio forgets which one it serves; after a kill in between,
            # this one is met again.
            self.switch(self._live())
            version.state = "removed"
            self._store.publications.save(version)
            yield version.name, held.get(version.name, 0)

    def _live(self) -> str:
        project = self._store.projects.get(self._project_id)
        return project.live_version if project else ""

    def _open(self, version: Publication, kind: str, held: Collection[str]) -> Publication:
        """Take the next name of this round that nobody ever used."""
        taken = [
            v for v in self._store.publications.all(self._project_id) if v.round == version.round
        ]
        attempt = max((v.attempt for v in taken), default=0) + 1
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
        """An attempt that never went live may be half there: it is never used again."""
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
        # What does not answer this either fails the round, which says so.
        found = self._studio.version_count(self._project_id, attempt.name)
        if found != len(items):
            log.warning("%d of %d scans arrived%s", found, len(items), why)
        return found == len(items)

    def _still_open(self, queue: Sequence[int], *, everything: bool) -> list[int]:
        """Return what nobody labelled or deleted meanwhile.

        What was deleted shows only where all tasks are read, and is refused by Label Studio; so
        this looks at what changed, and after a refusal at everything.
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

        A submit that lies in the future was stamped by a clock that was ahead.
        """
        newest = self._studio.newest_update(self._project_id)
        return abs(self._store.clock() - moment(newest)) >= QUIET_SECONDS if newest else True


def _live_at(version: Publication) -> float:
    return version.live_at
