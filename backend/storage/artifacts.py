"""Files that are whole or absent: written under a temporary name, synced, then renamed.

Those of a project lie in one place for all machines: a folder, or a bucket of which each machine
keeps copies in DATA_DIR.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from backend.errors import StorageError
from backend.storage.bucket import Bucket, folder_of

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Found = TypeVar("Found")

PARTIAL = ".partial"  # what a file is called until it is whole
# What numpy stumbles over in an archive that was cut short or written over.
DAMAGED = (BadZipFile, EOFError, KeyError, ValueError, zlib.error)

# The kinds of files that rounds leave of a project; each is a folder.
ROUNDS, DRAFTS, MODELS = "rounds", "drafts", "models"
EMBEDDINGS, MAPS, CLUSTERS = "embeddings", "maps", "clusters"

# Kinds whose names follow from what is in them: a copy of one is right without a look.
LASTING = frozenset({EMBEDDINGS, MODELS, CLUSTERS})
# Kinds of which only some are kept: copies of what is no longer in the bucket go as well.
PASSING = frozenset({MODELS, CLUSTERS, DRAFTS})
TRANSFERS = 16  # at a time; mostly they wait for the bucket


def digest(*parts: object) -> str:
    """Return a name that follows from content: 40 hex digits of the parts' JSON."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def write(
    path: Path,
    save: Callable[[IO[bytes]], object],
    *,
    share: Callable[[Path], object] | None = None,
    place: str = "DATA_DIR",
) -> None:
    """Write a file so that nobody ever sees half of it, not even after a power cut.

    Args:
        path: Where it will lie.
        save: Writes the content.
        share: Is given the file when it is whole, before it lies at `path`.
        place: The setting that says which disk it is.

    Raises:
        StorageError: When the disk is full or the folder cannot be written, or by `share`.
    """
    # Processes of two containers may have one id, and threads always have.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        if share:
            share(unfinished)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StorageError(
            f"A file below {place} could not be written ({error.strerror}).",
            f"Free disk space or make {place} writable; the round starts again by itself.",
        ) from None
    except StorageError:
        unfinished.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a JSON document."""
    write(path, lambda file: file.write(json.dumps(value).encode()))


def read_json(path: Path) -> Any:
    """Return a JSON document, or None when there is none, or a damaged one."""
    return ProjectFiles(path.parent).read_json(path.name)


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write one array as .npy."""
    write(path, lambda file: np.save(file, array, allow_pickle=False))


# -- the files of projects ------------------------------------------------------------------------


def round_name(number: int) -> str:
    """Return the name of the queue of a round and its reasons."""
    return f"{ROUNDS}/{number:04d}.json"


def round_of(name: str) -> int:
    """Return the number of the round that a queue or drafts are of."""
    return int(Path(name).stem)


def drafts_name(number: int) -> str:
    """Return the name of the drafts of a round."""
    return drafts_named(f"{number:04d}.json")


def drafts_named(file: str) -> str:
    """Return the name of the drafts in a file, as the row of a publication names it."""
    return f"{DRAFTS}/{file}"


def file_of(name: str) -> str:
    """Return a name without its kind, as rows of the database hold it."""
    return name.partition("/")[2]


def weights_name(key: str) -> str:
    """Return the name of the weights of a model."""
    return f"{MODELS}/{key}"


def embeddings_name(chunk: str) -> str:
    """Return the name of a chunk of embeddings."""
    return f"{EMBEDDINGS}/{chunk}"


@dataclass(frozen=True)
class Space:
    """Where distances are measured: an encoder, a projection and its seed."""

    encoder: str
    projection: str
    seed: int


def map_name(space: Space) -> str:
    """Return the name of the map that was fitted in a space."""
    return f"{MAPS}/{digest(vars(space))}.npz"


def clusters_name(space: Space, scans: Sequence[str], budget: int) -> str:
    """Return the name of the clusters of a map.

    Args:
        space: The map's.
        scans: The names of the scans that the map was fitted on, in the map's order.
        budget: The cold start's, which the number of clusters depends on.
    """
    return f"{CLUSTERS}/{digest(vars(space), scans, budget)}.npz"


def scan_name(chunk: str, row: int) -> str:
    """Return the name of a scan in the file of a map: where its embedding lies."""
    return f"{chunk}/{row}"


class Artifacts:
    """Where the files of all projects lie; made once in a process.

    Args:
        data_dir: DATA_DIR.
        url: ARTIFACTS_URL; "" for files that lie below DATA_DIR alone.
    """

    def __init__(self, data_dir: Path, url: str = "") -> None:
        self._data_dir = data_dir
        self._shared = folder_of(url)
        self._bucket = Bucket(url) if url and self._shared is None else None

    def of(self, project_id: int) -> ProjectFiles:
        """Return the files of a project."""
        return self._below(f"projects/{project_id}")

    def probe(self) -> None:
        """Write, list, read and delete a file, as rounds do.

        Raises:
            StorageError: When one of these fails.
        """
        self._below(f"projects/probe-{secrets.token_hex(4)}").probe()

    def _below(self, where: str) -> ProjectFiles:
        here = self._data_dir / where
        if self._shared:
            return ProjectFiles(self._shared / where, scratch=here, place="ARTIFACTS_URL")
        return ProjectFiles(here, bucket=self._bucket, prefix=where)


class ProjectFiles:
    """What rounds leave of one project: by names such as models/<key>, each file of a kind.

    Args:
        folder: Where they lie on this machine: all of them, or copies of those in the bucket.
        scratch: Where else this machine keeps files of the project; `folder` by default.
        place: The setting that names `folder`.
        bucket: Where all of them are, when that is no folder.
        prefix: Of their names in the bucket.

    A copy is made once the file is in the bucket, never before: what lies on one machine can be had
    by all. Names of a LASTING kind stand for one content, but for scans that are erased from it:
    then copies are dropped. Of other files the bucket's mark is kept beside the copy, and asked for
    at every read. Every method may raise a StorageError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scratch: Path | None = None,
        place: str = "DATA_DIR",
        bucket: Bucket | None = None,
        prefix: str = "",
    ) -> None:
        self.folder = folder
        self.scratch = scratch or folder
        self._place = place
        self._bucket = bucket
        self._prefix = prefix

    # -- reading ----------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        """Return whether there is such a file, for every machine."""
        if self._bucket:
            return bool(self._bucket.mark(self._key(name)))
        return (self.folder / name).exists()

    def names(self, kind: str) -> list[str]:
        """Return the names of all files of a kind, in order."""
        if self._bucket:
            found = self._bucket.keys(self._key(kind))
            return [key.removeprefix(self._key("")) for key in found]
        return self._here(kind)

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Return where files lie on this machine, the newest of each; there may be none."""
        if self._bucket:
            # Before the look at the bucket: whatever is written meanwhile is in there.
            here = {kind: self._here(kind) for kind in PASSING & set(map(_kind, names))}
            due = [name for name in dict.fromkeys(names) if not self._is_settled(name)]
            fetched = _together(partial(self._fetch, self._bucket), due)
            for kind in {_kind(name) for name, new in zip(due, fetched, strict=True) if new}:
                self._drop_gone(here.get(kind, []), kind)
        return [self.folder / name for name in names]

    def read(self, name: str, load: Callable[[Path], Found]) -> Found:
        """Return what `load` makes of a file; a damaged or lost copy is fetched again, once.

        Raises:
            FileNotFoundError: Without such a file.
            Exception: One of DAMAGED, when all there is of it is damaged.
        """
        try:
            return self._load(name, load)
        except (FileNotFoundError, *DAMAGED):
            if self._bucket is None:
                raise
        self._drop(name)
        return self._load(name, load)

    def _load(self, name: str, load: Callable[[Path], Found]) -> Found:
        [path] = self.paths([name])
        try:
            return load(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                f"A file below {self._place} could not be read ({error.strerror}).",
                f"Look at the disk or share of {self._place}; the round starts again by itself.",
            ) from None

    def read_json(self, name: str) -> Any:
        """Return a JSON document, or None when there is none, or a damaged one."""
        return self.read_parsed(name, json.loads)

    def read_parsed(self, name: str, parse: Callable[[bytes], Found]) -> Found | None:
        """Return what `parse` makes of a file's content.

        None when there is no such file, or a damaged one: `parse` raises a ValueError then.
        """
        try:
            return self.read(name, lambda path: parse(path.read_bytes()))
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("%s is damaged, and is taken for absent", name.rpartition("/")[2])
            return None

    def leftovers(self) -> Iterator[Path]:
        """Yield what is half written on this machine, now or by a process that was killed."""
        for folder in {self.folder, self.scratch}:
            yield from folder.rglob(f"*{PARTIAL}")

    # -- writing ----------------------------------------------------------------------------------

    def write(self, name: str, save: Callable[[IO[bytes]], object]) -> None:
        """Write a file, for every machine; a failure leaves what was there before."""
        path = self.folder / name
        if self._bucket is None:
            write(path, save, place=self._place)
            return
        write(path, save, share=partial(self._bucket.put, self._key(name)))
        if _kind(name) not in LASTING:
            self._note(name, self._bucket.mark(self._key(name)))

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON document."""
        self.write(name, lambda file: file.write(json.dumps(value).encode()))

    def write_array(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write one array as .npy."""
        self.write(name, lambda file: np.save(file, array, allow_pickle=False))

    def remove(self, name: str) -> None:
        """Delete a file, if there is one; copies on other machines are no longer used."""
        if self._bucket:
            self._bucket.remove(self._key(name))
        self._drop(name)

    def clear(self) -> None:
        """Delete everything of the project, with what this machine keeps besides."""
        if self._bucket:
            _together(self._bucket.remove, self._bucket.keys(self._prefix))
        for folder in {self.folder, self.scratch}:
            shutil.rmtree(folder, ignore_errors=True)

    def drop_all_copies(self) -> None:
        """Drop all that this machine keeps of a project in a bucket; it is fetched anew."""
        if self._bucket:
            shutil.rmtree(self.folder, ignore_errors=True)

    def drop_copies(self, chunks: Iterable[str]) -> None:
        """Drop this machine's copies of all that changes when scans are erased.

        Args:
            chunks: The files of embeddings that changed, or are gone.
        """
        if self._bucket:
            changed = map(embeddings_name, chunks)
            for name in [*changed, *self._here(MAPS), *self._here(DRAFTS)]:
                self._drop(name)

    def probe(self) -> None:
        """Write, list, read and delete a file. Not for a project that has any."""
        name = f"{ROUNDS}/probe.json"
        try:
            self.write_json(name, name)
            if self._bucket:
                self._drop(name)
            if self.names(ROUNDS) != [name] or self.read_json(name) != name:
                raise StorageError(
                    "The artifacts at ARTIFACTS_URL did not give back what was written.",
                    "Use a store that shows at once what was written.",
                )
            self.clear()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- copies of what is in a bucket ------------------------------------------------------------

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _here(self, kind: str) -> list[str]:
        found = sorted((self.folder / kind).glob("[!.]*"))
        return [f"{kind}/{path.name}" for path in found if path.suffix != PARTIAL]

    def _is_settled(self, name: str) -> bool:
        return _kind(name) in LASTING and (self.folder / name).exists()

    def _fetch(self, bucket: Bucket, name: str) -> bool:
        """Bring a copy up to date; return whether it is a new one."""
        # Asked for before the content: of what is written in between too much is fetched.
        mark = "" if _kind(name) in LASTING else bucket.mark(self._key(name))
        if mark and mark == self._noted(name):
            return False
        content = bucket.get(self._key(name)) if mark or _kind(name) in LASTING else None
        if content is None:
            self._drop(name)
            return False
        write(self.folder / name, lambda file: file.write(content))
        if mark:
            self._note(name, mark)
        return True

    def _drop_gone(self, copies: Sequence[str], kind: str) -> None:
        """Drop those copies of a kind that are no longer in the bucket."""
        for name in set(copies) - set(self.names(kind) if copies else []):
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._beside(name).unlink(missing_ok=True)
        (self.folder / name).unlink(missing_ok=True)

    def _beside(self, name: str) -> Path:
        path = self.folder / name
        return path.with_name(f".{path.name}.mark")

    def _note(self, name: str, mark: str) -> None:
        write(self._beside(name), lambda file: file.write(mark.encode()))

    def _noted(self, name: str) -> str:
        """Return the mark of the copy, "" without a copy."""
        try:
            return self._beside(name).read_text() if (self.folder / name).exists() else ""
        except FileNotFoundError:
            return ""


def _kind(name: str) -> str:
    return name.partition("/")[0]


def _together(work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Return what the work makes of each item; the first failure ends all."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    pool = ThreadPoolExecutor(min(TRANSFERS, len(todo)), thread_name_prefix="artifacts")
    try:
        return list(pool.map(work, todo))
    finally:
        pool.shutdown(cancel_futures=True)
