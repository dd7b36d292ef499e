"""Erase every trace of scans that were deleted in Label Studio, and of forgotten projects.

One transaction deletes the rows of the scans, takes the scans out of the review of the labels and
writes a note (`storage.tables.Erasure`). The processes then follow the notes, outside of rounds.
Every part is safe to repeat after a kill:

- the leading worker removes the scans from the files that all machines share, and lets SQLite
  overwrite its log;
- every worker and web process removes them from its own machine: decoded scans and copies.

Networks that were trained on a deleted scan stay until `ProjectPublications.tidy` deletes their
weights. Records of rounds keep the scan's task id and scores.
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
from backend.rounds.idle import review_files
from backend.storage import artifacts
from backend.storage.artifacts import Artifacts, ProjectFiles, embeddings_name
from backend.storage.store import Store
from backend.storage.tables import Erasure

log = logging.getLogger(__name__)

TURN_SECONDS = 10.0
# Work that was under way when a scan was deleted has ended by then, and writes no file of it.
SETTLE_SECONDS = 3600.0
MARK = "erased.json"  # the last note that this machine is done with
PURGE_TRIES = 20
PURGE_PAUSE_SECONDS = 0.5


def follow(eraser: Eraser, leads: Callable[[], bool], stop: threading.Event) -> None:
    """Erase deleted scans, every ten seconds until told to stop.

    Args:
        eraser: Erases.
        leads: Says whether this process is the leading worker.
        stop: Set it to end the loop.
    """
    say = logs.Once(log)
    while not stop.wait(TURN_SECONDS):
        try:
            eraser.turn(leads=leads())
            say("")
        except FirstlightError as error:
            say(f"deleted scans are not erased yet, the next turn tries again: {error}")
        except Exception:
            # Keep the thread alive: if it died, erasing would stop and no process would notice.
            log.exception("erasing deleted scans failed unexpectedly")


class Eraser:
    """Follows the notes of deleted scans and projects on one machine.

    Args:
        store: Holds the notes.
        files: The files of all projects.
        data_dir: DATA_DIR; it keeps the number of the last note that this machine is done with.
        clock: Seconds; may be monotonic.
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
        """Follow every open note.

        Args:
            leads: Whether this process is the leading worker, which cleans the shared files.

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
        """Follow each note at once, and again when the work that was under way has ended."""
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
            scan_cache,  # imports decoders: a web process loads them only when it must
        )

        project_id = notes[0].project_id
        files = self._files.of(project_id)
        if any(note.whole for note in notes):  # only copies: it may be connected again by now
            files.drop_all_copies()
            scan_cache.clear(files.scratch)
            return
        files.drop_copies({chunk for note in notes for chunk in note.chunks})
        gone = sorted({task for note in notes for task in note.task_ids})
        known = self._store.scans.addresses(project_id, gone)
        scan_cache.erase(files.scratch, {task: known.get(task) for task in gone})
        _drop_old(files.leftovers())

    def _settled(self) -> int:
        """Return the number of the last note that this machine is done with."""
        mark = artifacts.read_json(self._mark) or {}
        number = int(mark.get("number", 0))
        same = mark.get("installation") == self._store.installation.id
        # A database without that note is a different one, or was restored from a backup.
        return number if same and self._store.erasures.after(after=number - 1) else 0

    def _settle(self, number: int) -> None:
        for older in [known for known in self._since if known <= number]:
            del self._since[older]
        mark = {"installation": self._store.installation.id, "number": number}
        artifacts.write_json(self._mark, mark)


def erase(store: Store, files: ProjectFiles, project_id: int, notes: Sequence[Erasure]) -> None:
    """Remove deleted scans, or the whole project, from the files that all machines share."""
    if any(note.whole for note in notes):
        files.clear()
        return
    left = store.embeddings.rows_of(project_id, {chunk for note in notes for chunk in note.chunks})
    if left:
        # It imports scikit-learn and openTSNE, which most commands need not.
        from backend.rounds.maps import embedding_map

        embedding_map.erase(files, left)
    for chunk, rows in left.items():
        _erase_rows(files, embeddings_name(chunk), rows)
    gone = {task for note in notes for task in note.task_ids}
    _erase_drafts(files, gone)
    for name in files.names(artifacts.REVIEWS):
        review_files.erase(files, name, gone)


def forgotten(store: Store, project_id: int) -> bool:
    """Note that a forgotten project's files are deleted, and let SQLite overwrite its rows.

    Return whether SQLite could do that within ten seconds. It cannot while other processes read
    or write; then the notes stay, and the worker does it later.
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
    by_project: dict[int, list[Erasure]] = {}
    for note in notes:
        by_project.setdefault(note.project_id, []).append(note)
    return list(by_project.values())


def _erase_rows(files: ProjectFiles, name: str, rows: set[int]) -> None:
    """Keep these rows of a file of embeddings and zero all others; with no rows, delete the file.

    The file keeps its name and its number of rows, because maps and the database refer to them.
    """
    if not rows:
        files.remove(name)
        return
    try:
        vectors = files.read(name, _vectors)
    except FileNotFoundError:
        return
    except artifacts.DAMAGED:
        files.remove(name)  # damaged; the next round embeds its scans again
        return
    lost = ~np.isin(np.arange(len(vectors)), list(rows))
    if vectors[lost].any():
        vectors[lost] = 0
        files.write_array(name, vectors)


def _vectors(path: Path) -> npt.NDArray[np.float32]:
    # Open the file here: numpy does not close a damaged file.
    with path.open("rb") as file:
        vectors: npt.NDArray[np.float32] = np.load(file, allow_pickle=False)
        return vectors


def _erase_drafts(files: ProjectFiles, task_ids: set[int]) -> None:
    for name in files.names(artifacts.DRAFTS):
        masks = files.read_json(name)
        if masks is None:
            files.remove(name)  # damaged, and it may hold deleted scans
            continue
        left = {task: of_scan for task, of_scan in masks.items() if int(task) not in task_ids}
        if len(left) < len(masks):
            files.write_json(name, left)


def _drop_old(unfinished: Iterable[Path]) -> None:
    """Delete the half-written files of killed processes."""
    for path in unfinished:
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > SETTLE_SECONDS:
                path.unlink()
