"""Objects at a URL, by fsspec: an object store as files that are whole or absent.

An error of a store's library may hold an address or a key. So only its type is passed on, never its
text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend import PROGRAM
from backend.errors import ConfigError, StorageError, reason

# Give up soon: an annotator may be waiting for a draft, and a round starts again by itself.
_S3: dict[str, Any] = {
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 30,
        "retries": {"mode": "standard", "total_max_attempts": 3},
    },
    "max_concurrency": 1,  # one request an object: two parts could come from two writes
}


def folder_of(url: str) -> Path | None:
    """Return the folder that ARTIFACTS_URL names; None if it names an object store."""
    path = url.removeprefix("file://")
    return Path(path) if path.startswith("/") else None


def shown(url: str) -> str:
    """Return a URL without the parts that may be secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def prepare(url: str) -> None:
    """Check at the start that ARTIFACTS_URL is usable; an object store is not contacted yet.

    Raises:
        ConfigError: When the folder cannot be written, or the protocol's package is missing.
    """
    folder = folder_of(url)
    if folder is not None:
        _try_folder(folder)
    elif url:
        _try_protocol(urlsplit(url).scheme)


def _try_folder(folder: Path) -> None:
    # Do not create the folder: a share that is not mounted would look like an empty one.
    probe = folder / f".writable-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"ARTIFACTS_URL {folder} cannot be written ({error.strerror}).",
            "Mount or make that folder, and let this user write there.",
        ) from None


def _try_protocol(protocol: str) -> None:
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    try:
        get_filesystem_class(protocol)
    except ImportError:
        package = known_implementations[protocol]["class"].partition(".")[0]
        raise ConfigError(
            f"ARTIFACTS_URL begins with {protocol}://, for which a package is missing.",
            f"Install it beside this service: pip install {package}",
        ) from None
    except ValueError:
        raise ConfigError(
            f"ARTIFACTS_URL begins with {protocol}://, a protocol that fsspec does not know.",
            "Use s3://bucket/prefix, another protocol of fsspec, or a folder.",
        ) from None


class Bucket:
    """The objects below one URL. Every call may raise a StorageError."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_there = False

    def mark(self, key: str) -> str:
        """Return a mark that changes with an object's content; "" if there is no object."""
        with _store_errors():
            try:
                return str(self._files.ukey(self._at(key)))
            except FileNotFoundError:
                self._make_sure()
                return ""

    def get(self, key: str) -> bytes | None:
        """Return the content of an object; None if there is no object."""
        with _store_errors():
            try:
                return bytes(self._files.cat_file(self._at(key)))
            except FileNotFoundError:
                self._make_sure()
                return None

    def put(self, key: str, path: Path) -> None:
        """Upload a file as an object."""
        with _store_errors():
            self._files.put_file(str(path), self._at(key))

    def remove(self, key: str) -> None:
        """Delete an object if it exists."""
        with _store_errors(), suppress(FileNotFoundError):
            self._files.rm_file(self._at(key))

    def keys(self, prefix: str) -> list[str]:
        """Return the names of all objects below a prefix."""
        with _store_errors():
            paths = self._files.find(self._at(prefix))
        return sorted(path.removeprefix(self._at("")) for path in paths)

    def _make_sure(self) -> None:
        """Check once that the bucket of a missing object exists; raise if it does not."""
        if not self._is_there:
            self._files.find(self._at("projects/0/none"))
            self._is_there = True

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    @property
    def _files(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return str(self._opened[1]).rstrip("/")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        # Open at the first use: fsspec's thread would not survive a server's fork.
        from fsspec.core import url_to_fs

        is_s3 = urlsplit(self._url).scheme in {"s3", "s3a"}
        fixed = {"skip_instance_cache": True, "use_listings_cache": False}
        files, root = url_to_fs(self._url, **fixed, **(_S3 if is_s3 else {}))
        if is_s3:
            files.retries = 1  # botocore itself tries three times
        return files, root


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn every error of a store's library into a StorageError without the library's text."""
    try:
        yield
    # The libraries share no base class of errors, and any error means that the store failed.
    except Exception as error:  # noqa: BLE001
        raise StorageError(
            f"The artifacts at ARTIFACTS_URL did not answer ({reason(error)}).",
            f"Check ARTIFACTS_URL, its credentials and the store with `{PROGRAM} doctor`. "
            "The round starts again by itself.",
        ) from None
