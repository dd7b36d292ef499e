"""Objects at a URL, by fsspec: an object store as files that are whole or absent.

Whatever a store's library says may hold an address or a key: it is never passed on, only its kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.errors import ConfigError, StorageError

# A draft may be waiting for an answer, and a round comes back by itself.
_S3: dict[str, Any] = {
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 30,
        "retries": {"mode": "standard", "total_max_attempts": 3},
    },
    "max_concurrency": 1,  # one request an object: parts could be of two versions of it
}


def folder_of(url: str) -> Path | None:
    """Return the folder that ARTIFACTS_URL names, None when it is no folder."""
    path = url.removeprefix("file://")
    return Path(path) if path.startswith("/") else None


def shown(url: str) -> str:
    """Return a URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


def prepare(url: str) -> None:
    """Find out at the start whether ARTIFACTS_URL can be used here; a store is not asked yet.

    Raises:
        ConfigError: When the folder cannot be written, or the protocol needs a package.
    """
    folder = folder_of(url)
    if folder is not None:
        _try_folder(folder)
    elif url:
        _try_protocol(urlsplit(url).scheme)


def _try_folder(folder: Path) -> None:
    # Not made here: a share that is not mounted would be taken for an empty one.
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
            f"ARTIFACTS_URL begins with {protocol}://, which is unknown here.",
            "Use s3://bucket/prefix, another protocol of fsspec, or a folder.",
        ) from None


class Bucket:
    """The objects below one URL. Every call may raise a StorageError."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_there = False

    def mark(self, key: str) -> str:
        """Return what tells this content of an object from any other, "" without an object."""
        with _told():
            try:
                return str(self._files.ukey(self._at(key)))
            except FileNotFoundError:
                self._make_sure()
                return ""

    def get(self, key: str) -> bytes | None:
        """Return the content of an object, None without one."""
        with _told():
            try:
                return bytes(self._files.cat_file(self._at(key)))
            except FileNotFoundError:
                self._make_sure()
                return None

    def put(self, key: str, path: Path) -> None:
        """Make a file's content that of an object."""
        with _told():
            self._files.put_file(str(path), self._at(key))

    def remove(self, key: str) -> None:
        """Delete an object, if there is one."""
        with _told(), suppress(FileNotFoundError):
            self._files.rm_file(self._at(key))

    def keys(self, prefix: str) -> list[str]:
        """Return the names of all objects below a prefix."""
        with _told():
            found = self._files.find(self._at(prefix))
        return sorted(path.removeprefix(self._at("")) for path in found)

    def _make_sure(self) -> None:
        """Find out once that the bucket of a missing object is not missing itself."""
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
        # At the first use: its thread would not survive a server's fork.
        from fsspec.core import url_to_fs

        is_s3 = urlsplit(self._url).scheme in {"s3", "s3a"}
        fixed = {"skip_instance_cache": True, "use_listings_cache": False}
        files, root = url_to_fs(self._url, **fixed, **(_S3 if is_s3 else {}))
        if is_s3:
            files.retries = 1  # botocore has tried three times by then
        return files, root


@contextmanager
def _told() -> Iterator[None]:
    """Turn whatever a store's library raises into a StorageError that repeats none of its words."""
    try:
        yield
    # Libraries have no common kind of error, and one of a kind that nobody expected is still a
    # store that did not do what was asked.
    except Exception as error:  # noqa: BLE001
        raise StorageError(
            f"The artifacts at ARTIFACTS_URL did not answer ({type(error).__name__}).",
            "Look at ARTIFACTS_URL, its credentials and its store, with `python -m backend "
            "doctor`; the round starts again by itself.",
        ) from None
