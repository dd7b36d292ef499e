"""Scans that were deleted in Label Studio leave no trace here, and neither do forgotten projects.

The rows of deleted scans go in one transaction with a note (`store.Erasure`). What is left to do
follows from the notes, by the worker, outside of rounds. Every part of it may be repeated, so that
a kill at any point costs nothing:

- the worker that leads takes the scans out of the files that all machines share, and has SQLite
  overwrite its log;
- every worker and web process takes them out of what its own machine keeps: decoded scans and
  copies.

Networks that were trained on a deleted scan stay until `ProjectPublications.tidy` deletes their
weights. Records of rounds keep the scan's number and scores.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend import logs
from backend.errors import FirstlightError
from backend.storage import artifacts
from backend.storage.artifacts import Artifacts, ProjectFiles, embeddings_name
from backend.storage.store import Store
from backend.storage.tables import Erasure

log = logging.getLogger(__name__)

TURN_SECONDS = 10.0
# After that long nothing that was under way when a scan was deleted still writes a file of it.
SETTLE_SECONDS = 3600.0
MARK = "erased.json"  # the last note that this machine need not look at again
PURGE_TRIES = 20
PURGE_PAUSE_SECONDS = 0.5


def follow(eraser: Eraser, leads: Callable[[], bool], stop: threading.Event) -> None:
    """Erase what was deleted, every ten seconds until told to stop.

    Args:
        eraser: Does it.
        leads: Says whether this process does what one alone has to do.
        stop: Set when this ends.
    """
    say = logs.Once(log)
    while not stop.wait(TURN_SECONDS):
        try:
            eraser.turn(leads=leads())
            say("")
        except FirstlightError as error:
            say(f"deleted scans are not erased yet: {error}")
        except Exception:
            # Nothing else would notice that this thread is gone, and with it every erasure.
            log.exception("erasing deleted scans failed unexpectedly")


class Eraser:
    """Follows the notes of deleted scans and projects on one machine.

    Args:
        store: Holds the notes.
        files: The files of all projects.
        data_dir: DATA_DIR; it keeps how far this machine is.
        clock: Seconds; need not know the hour.
    """

    def __init__(
        self,
        store: Store,
        files: Artifacts,
        data_dir: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._files = files
        self._mark = data_dir / MARK
        self._clock = clock
        self._since: dict[int, float] = {}  # when a note was first followed here, by its number

    def turn(self, *, leads: bool) -> None:
        """Do all that is left to do.

        Args:
            leads: Whether this process does what one alone has to do.

        Raises:
            StorageError: When files, bucket or database do not answer; the next turn tries again.
        """
        if leads:
            self._erase_for_all()
        self._erase_here()

    # -- for all machines --------------------------------------------------------------------------

    def _erase_for_all(self) -> None:
        notes = self._store.erasures.to_do()
        if notes and self._store.erasures.purge_log():
            self._store.erasures.note([note.number for note in notes], database_done=True)
        for of_project in _by_project(note for note in notes if not note.files_done):
            project_id = of_project[0].project_id
            erase(self._store, self._files.of(project_id), project_id, of_project)
            self._store.erasures.note([note.number for note in of_project], files_done=True)

    # -- on this machine ---------------------------------------------------------------------------

    def _erase_here(self) -> None:
        """Follow each note at once, and once more when what was under way has ended."""
        now, settled = self._clock(), self._settled()
        ready = takewhile(lambda note: note.files_done, self._store.erasures.after(after=settled))
        due, last = [], settled
        for note in ready:
            since = self._since.get(note.number)
            if since is None or now - since >= SETTLE_SECONDS:
                due.append(note)
            if since is not None and now - since >= SETTLE_SECONDS:
                last = note.number
        for of_project in _by_project(due):
            self._erase_project_here(of_project)
        self._since |= {note.number: now for note in due if note.number not in self._since}
        if last > settled:
            self._settle(last)

    def _erase_project_here(self, notes: Sequence[Erasure]) -> None:
        from backend.imaging import (
            scan_cache,  # decoders, which a web process does without until then
        )

        project_id = notes[0].project_id
        files = self._files.of(project_id)
        if any(note.whole for note in notes):  # it may be connected again by now
            files.drop_all_copies()
            scan_cache.clear(files.scratch)
            return
        files.drop_copies({chunk for note in notes for chunk in note.chunks})
        gone = sorted({task for note in notes for task in note.task_ids})
        known = self._store.scans.addresses(project_id, gone)
        scan_cache.erase(files.scratch, {task: known.get(task) for task in gone})
        _drop_old(files.leftovers())

    def _settled(self) -> int:
        """Return the number of the last note that need not be followed here again."""
        mark = artifacts.read_json(self._mark) or {}
        number = int(mark.get("number", 0))
        same = mark.get("installation") == self._store.installation.id
        # A database that does not know that note is another one, or was put back from a backup.
        return number if same and self._store.erasures.after(after=number - 1) else 0

    def _settle(self, number: int) -> None:
        for older in [known for known in self._since if known <= number]:
            del self._since[older]
        mark = {"installation": self._store.installation.id, "number": number}
        artifacts.write_json(self._mark, mark)


def erase(store: Store, files: ProjectFiles, project_id: int, notes: Sequence[Erasure]) -> None:
    """Take deleted scans, or the whole project, out of the files that all machines share."""
    if any(note.whole for note in notes):
        files.clear()
        return
    left = store.embeddings.rows_of(project_id, {chunk for note in notes for chunk in note.chunks})
    if left:
        from backend.rounds import (
            embedding_map,  # scikit-learn and openTSNE, which not every command needs
        )

        embedding_map.erase(files, left)
    for chunk, rows in left.items():
        _erase_rows(files, embeddings_name(chunk), rows)
    _erase_drafts(files, {task for note in notes for task in note.task_ids})


def forgotten(store: Store, project_id: int) -> bool:
    """Note that the files of a forgotten project are deleted, and have SQLite overwrite its rows.

    Return whether that was possible within ten seconds. While others read or write it is not: then
    the worker does it, for the notes say that it has to.
    """
    notes = store.erasures.to_do()
    mine = [note.number for note in notes if note.project_id == project_id]
    store.erasures.note(mine, files_done=True)
    for _ in range(PURGE_TRIES):
        if store.erasures.purge_log():
            store.erasures.note([note.number for note in notes], database_done=True)
            return True
        time.sleep(PURGE_PAUSE_SECONDS)
    return False


def _by_project(notes: Iterable[Erasure]) -> list[list[Erasure]]:
    found: dict[int, list[Erasure]] = {}
    for note in notes:
        found.setdefault(note.project_id, []).append(note)
    return list(found.values())


def _erase_rows(files: ProjectFiles, name: str, rows: set[int]) -> None:
    """Overwrite all rows of a file of embeddings with zeros but these; without any the file goes.

    Its name and the places of the other rows stay: maps and the database go by them.
    """
    if not rows:
        files.remove(name)
        return
    try:
        vectors = files.read(name, _vectors)
    except FileNotFoundError:
        return
    except artifacts.DAMAGED:
        files.remove(name)  # nobody can read it; the next round embeds its scans again
        return
    lost = ~np.isin(np.arange(len(vectors)), list(rows))
    if vectors[lost].any():
        vectors[lost] = 0
        files.write_array(name, vectors)


def _vectors(path: Path) -> npt.NDArray[np.float32]:
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as file:
        found: npt.NDArray[np.float32] = np.load(file, allow_pickle=False)
        return found


def _erase_drafts(files: ProjectFiles, task_ids: set[int]) -> None:
    for name in files.names(artifacts.DRAFTS):
        masks = files.read_json(name)
        if masks is None:
            files.remove(name)  # nobody can read it, and it may hold what has to go
            continue
        left = {task: regions for task, regions in masks.items() if int(task) not in task_ids}
        if len(left) < len(masks):
            files.write_json(name, left)


def _drop_old(unfinished: Iterable[Path]) -> None:
    """Delete what processes that were killed left half written."""
    for path in unfinished:
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > SETTLE_SECONDS:
                path.unlink()
