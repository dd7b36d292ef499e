"""The files of an export: written whole or not at all, and known by their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from backend.errors import StorageError
from backend.storage import artifacts


class Files:
    """Writes files below a folder and notes their hashes.

    Args:
        folder: Of the export.
        inside: The folder in it that all files go into, "" for none.

    Attributes:
        written: SHA-256 of every file written so far, by its path in the export's folder.
    """

    def __init__(self, folder: Path, inside: str = "") -> None:
        self._folder = folder
        self._inside = inside
        self.written: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """Return where a file lies."""
        return self._folder / self._inside / name

    def write(self, name: str, save: Callable[[IO[bytes]], object]) -> None:
        """Write a file.

        Args:
            name: Its path, with "/".
            save: Writes the content.

        Raises:
            StorageError: When the disk is full or the folder cannot be written.
        """

        def note(complete: Path) -> None:
            path = self.path(name).relative_to(self._folder)
            self.written[path.as_posix()] = hash_of(complete)

        try:
            # Not synced: the next run finds a file that a power cut damaged by its hash.
            artifacts.write(
                self.path(name), save, share=note, place=str(self._folder), synced=False
            )
        except StorageError as error:
            raise StorageError(
                error.what,
                "Free disk space, or name a folder that can be written. The same command then "
                "goes on where it stopped.",
            ) from None

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON document that people can read.

        Raises:
            StorageError: As `write`.
        """
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        self.write(name, lambda file: file.write(text.encode()))


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def remove(folder: Path, name: str) -> None:
    """Delete a file of a folder, and the folders that it leaves empty."""
    path = folder / name
    path.unlink(missing_ok=True)
    for parent in path.relative_to(folder).parents:
        with suppress(OSError):  # it is not empty
            if parent.name:
                (folder / parent).rmdir()
