"""Files that are whole or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from backend.errors import StorageError

log = logging.getLogger(__name__)

PARTIAL = ".partial"  # what a file is called until it is whole
# What numpy stumbles over in an archive that was cut short or written over.
DAMAGED = (BadZipFile, EOFError, KeyError, ValueError, zlib.error)


def digest(*parts: object) -> str:
    """Return a name that follows from content: 40 hex digits of the parts' JSON."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def write(path: Path, save: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that nobody ever sees half of it, not even after a power cut.

    Raises:
        StorageError: When the disk is full or the folder cannot be written.
    """
    # Processes of two containers may have one id, and threads always have.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"A file below DATA_DIR could not be written ({error.strerror}).",
            "Free disk space or make DATA_DIR writable; the round starts again by itself.",
        ) from None


def write_json(path: Path, value: object) -> None:
    """Write a JSON document."""
    write(path, lambda file: file.write(json.dumps(value).encode()))


def read_json(path: Path) -> Any:
    """Return a JSON document, or None when there is none, or a damaged one."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s is damaged, and is taken for absent", path.name)
        return None


def round_file(folder: Path, number: int) -> Path:
    """Return where the queue of a round and its reasons are written down."""
    return folder / "rounds" / f"{number:04d}.json"


def weights_file(folder: Path, key: str) -> Path:
    """Return where the weights of a model lie."""
    return folder / "models" / key


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write one array as .npy."""
    write(path, lambda file: np.save(file, array, allow_pickle=False))
