"""Hashes of files, by which a source is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def of_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the hashes of files, whatever the order of the files."""
    hashes = sorted(of_file(path) for path in paths)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
