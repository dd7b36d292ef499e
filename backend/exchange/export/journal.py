"""What an export has written so far: a second run writes only what changed since."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from backend.errors import ConfigError
from backend.exchange.export.files import hash_of, remove
from backend.storage.artifacts import PARTIAL

JOURNAL = ".firstlight.sqlite"
LOCK = ".firstlight.lock"
_TABLES = """
CREATE TABLE IF NOT EXISTS export (purpose TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cases (
    name TEXT PRIMARY KEY, key TEXT NOT NULL, notes TEXT NOT NULL, problems TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, "case" TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS files_of_cases ON files ("case");
"""


@dataclass(frozen=True)
class Entry:
    """A case that was written.

    Attributes:
        name: Of the case.
        key: A digest of all that its files follow from.
        notes: What the format keeps of it until the end, by folder ("" is the export's own).
        problems: Why some of its annotations are left out.
    """

    name: str
    key: str
    notes: Mapping[str, Any]
    problems: Sequence[str]


class Journal:
    """The journal in the folder of an export; a context manager that lets one export in at a time.

    Args:
        folder: Of the export; it is made if it does not exist.
        purpose: What is exported, and how. A folder serves one purpose.

    Raises:
        ConfigError: On entry, if the folder holds other files or an export of another purpose, or
            if another export writes into it now.
    """

    def __init__(self, folder: Path, purpose: Mapping[str, Any]) -> None:
        self._folder = folder
        self._purpose = json.dumps(purpose, sort_keys=True)
        self._lock = FileLock(folder / LOCK)

    def __enter__(self) -> Self:
        if self._folder.is_dir() and not (self._folder / JOURNAL).exists():
            self._check_empty()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"Another export writes into {self._folder} now.", "Wait until it has ended."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{self._folder} cannot be written ({error.strerror}).", "Name another folder."
            ) from None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._lock.release()

    def _check_empty(self) -> None:
        others = [path.name for path in self._folder.iterdir() if path.name != LOCK]
        if others:
            raise ConfigError(
                f"{self._folder} holds files that no export wrote, first {sorted(others)[0]}.",
                "Name a new folder, or one with an earlier export.",
            )

    def _open(self) -> None:
        self._base = sqlite3.connect(self._folder / JOURNAL)
        try:
            self._base.executescript(_TABLES)
            known = self._base.execute("SELECT purpose FROM export").fetchone()
            if known is None:
                with self._base:
                    self._base.execute("INSERT INTO export VALUES (?)", (self._purpose,))
            elif known[0] != self._purpose:
                raise ConfigError(
                    f"{self._folder} holds an export of another project, format or choice of "
                    "masks.",
                    "Name another folder.",
                )
        except sqlite3.DatabaseError:
            self._base.close()
            raise ConfigError(
                f"{self._folder / JOURNAL} is damaged.", "Delete the folder, and export again."
            ) from None
        except ConfigError:
            self._base.close()
            raise
        for left in self._folder.rglob(f".*{PARTIAL}"):  # of a run that was killed
            left.unlink(missing_ok=True)

    def is_written(self, name: str, key: str) -> bool:
        """Return whether a case was written for this key, and its files are unchanged."""
        known = self._base.execute("SELECT key FROM cases WHERE name = ?", (name,)).fetchone()
        return (
            known is not None
            and known[0] == key
            and all(hash_of(self._folder / path) == value for path, value in self._files(name))
        )

    def save(self, entry: Entry, files: Mapping[str, str]) -> None:
        """Note a case and the hashes of its files; delete the files that it no longer has.

        A kill before `commit` loses the note: the next run writes the case again.
        """
        former = {path for path, _ in self._files(entry.name)} - files.keys()
        for path in former:
            remove(self._folder, path)
        values = (entry.name, entry.key, json.dumps(entry.notes), json.dumps(entry.problems))
        self._base.execute('DELETE FROM files WHERE "case" = ?', (entry.name,))
        self._base.execute("INSERT OR REPLACE INTO cases VALUES (?, ?, ?, ?)", values)
        self._save_files(entry.name, files)

    def commit(self) -> None:
        """Keep all that was noted, whatever happens; it waits for the disk."""
        self._base.commit()

    def save_common(self, files: Mapping[str, str]) -> None:
        """Note the hashes of files that belong to no case, or that changed since."""
        self._save_files("", files)
        self.commit()

    def _save_files(self, case: str, files: Mapping[str, str]) -> None:
        self._base.executemany(
            "INSERT INTO files VALUES (?, ?, ?) ON CONFLICT (path) DO UPDATE SET hash = "
            "excluded.hash",
            [(path, case, value) for path, value in files.items()],
        )

    def keep_only(self, names: set[str]) -> int:
        """Delete all cases but these, with their files; return how many there were."""
        with closing(self._base.execute("SELECT name FROM cases")) as rows:
            gone = [name for (name,) in rows if name not in names]
        for name in gone:
            for path, _ in self._files(name):
                remove(self._folder, path)
            self._base.execute('DELETE FROM files WHERE "case" = ?', (name,))
            self._base.execute("DELETE FROM cases WHERE name = ?", (name,))
        self.commit()
        return len(gone)

    def keep_common(self, paths: set[str]) -> None:
        """Delete all files that belong to no case but these."""
        for path in {path for path, _ in self._files("")} - paths:
            remove(self._folder, path)
            self._base.execute("DELETE FROM files WHERE path = ?", (path,))
        self.commit()

    def entries(self) -> Iterator[Entry]:
        """Yield the cases by name; one is in memory at a time."""
        query = "SELECT name, key, notes, problems FROM cases ORDER BY name"
        with closing(self._base.execute(query)) as rows:
            for name, key, notes, problems in rows:
                yield Entry(name, key, json.loads(notes), json.loads(problems))

    def files(self) -> dict[str, str]:
        """Return the hash of every file by its path."""
        return dict(self._base.execute("SELECT path, hash FROM files ORDER BY path"))

    def _files(self, case: str) -> list[tuple[str, str]]:
        query = 'SELECT path, hash FROM files WHERE "case" = ?'
        return self._base.execute(query, (case,)).fetchall()
