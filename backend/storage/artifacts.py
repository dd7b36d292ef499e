"""Files that are whole or absent: written under a temporary name, synced, then renamed.

All machines share the files of a project: in a folder, or in a bucket of which each machine keeps
copies in DATA_DIR.
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
Result = TypeVar("Result")

PARTIAL = ".partial"  # suffix of a file that is being written
# Errors of numpy and json on a file that was cut short or overwritten.
DAMAGED = (BadZipFile, EOFError, KeyError, ValueError, zlib.error)

# The kinds of files that rounds leave of a project; each is a folder.
ROUNDS, DRAFTS, MODELS, REVIEWS = "rounds", "drafts", "models", "reviews"
EMBEDDINGS, MAPS, CLUSTERS = "embeddings", "maps", "clusters"

# Kinds whose names follow from their content: a copy is valid without asking the bucket.
LASTING = frozenset({EMBEDDINGS, MODELS, CLUSTERS})
# Kinds whose old files are deleted: a file deleted in the bucket is deleted here too.
PASSING = frozenset({MODELS, CLUSTERS, DRAFTS, REVIEWS})
TRANSFERS = 16  # at a time; they mostly wait for the bucket


def digest(*parts: object) -> str:
    """Return a name that follows from content: 40 hex digits, a hash of the parts' JSON."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def write(
    path: Path,
    save: Callable[[IO[bytes]], object],
    *,
    share: Callable[[Path], object] | None = None,
    place: str = "DATA_DIR",
    synced: bool = True,
) -> None:
    """Write a file atomically: readers see all of it or nothing, even after a power cut.

    Args:
        path: Path of the finished file.
        save: Writes the content.
        share: Called with the complete temporary file, before it is renamed to `path`.
        place: The setting that names the disk, for the error message.
        synced: Whether to wait for the disk. Without it a power cut may leave a damaged file, so
            readers must detect that. A cache of many small files is written several times faster.

    Raises:
        StorageError: When the disk is full or the folder cannot be written, or from `share`.
    """
    # A random name: threads share a process id, and so may processes of two containers.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            save(file)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        if share:
            share(unfinished)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StorageError(
            f"A file below {place} could not be written ({error.strerror}).",
            f"Free disk space or make {place} writable. The round starts again by itself.",
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
    """Return the name of a round's queue, with its reasons."""
    return f"{ROUNDS}/{number:04d}.json"


def round_of(name: str) -> int:
    """Return the number of the round in the name of a queue or of drafts."""
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
    """The space of a map: an encoder, a projection and its seed."""

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
        budget: The cold start's; the number of clusters depends on it.
    """
    return f"{CLUSTERS}/{digest(vars(space), scans, budget)}.npz"


def scan_name(chunk: str, row: int) -> str:
    """Return the name of a scan in the file of a map: the chunk and row of its embedding."""
    return f"{chunk}/{row}"


class Artifacts:
    """The files of all projects; made once in a process.

    Args:
        data_dir: DATA_DIR.
        url: ARTIFACTS_URL; "" to keep all files below DATA_DIR.
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
    """The artifacts of one project, under names such as models/<key>: a kind, then the file.

    Args:
        folder: This machine's folder: it holds the files, or copies of the files in the bucket.
        scratch: Folder for this machine's temporary files; `folder` by default.
        place: The setting that names `folder`, for error messages.
        bucket: Holds the files; None if they lie in `folder`.
        prefix: Of their names in the bucket.

    A file goes to the bucket first and is copied here afterwards, so every file on this machine is
    available to all. Files of a LASTING kind never change, except when scans are erased from them;
    their copies are then dropped. For other files, the bucket's mark is kept beside the copy and
    compared at every read. Every method may raise a StorageError.
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
        """Return whether the shared file exists."""
        if self._bucket:
            return bool(self._bucket.mark(self._key(name)))
        return (self.folder / name).exists()

    def names(self, kind: str) -> list[str]:
        """Return the names of all files of a kind, in order."""
        if self._bucket:
            keys = self._bucket.keys(self._key(kind))
            return [key.removeprefix(self._key("")) for key in keys]
        return self._here(kind)

    def paths(self, names: Sequence[str]) -> list[Path]:
        """Return the paths of files on this machine, up to date; a path may not exist."""
        if self._bucket:
            # List the copies before the bucket: a file written meanwhile is then not dropped.
            here = {kind: self._here(kind) for kind in PASSING & set(map(_kind, names))}
            due = [name for name in dict.fromkeys(names) if not self._is_final(name)]
            fetched = _together(partial(self._fetch, self._bucket), due)
            for kind in {_kind(name) for name, new in zip(due, fetched, strict=True) if new}:
                self._drop_gone(here.get(kind, []), kind)
        return [self.folder / name for name in names]

    def read(self, name: str, load: Callable[[Path], Result]) -> Result:
        """Return what `load` returns for a file; a damaged or lost copy is fetched again, once.

        Raises:
            FileNotFoundError: If the file does not exist.
            Exception: One of DAMAGED, if the shared file itself is damaged.
        """
        try:
            return self._load(name, load)
        except (FileNotFoundError, *DAMAGED):
            if self._bucket is None:
                raise
        self._drop(name)
        return self._load(name, load)

    def _load(self, name: str, load: Callable[[Path], Result]) -> Result:
        [path] = self.paths([name])
        try:
            return load(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                f"A file below {self._place} could not be read ({error.strerror}).",
                f"Check the disk or share of {self._place}. The round starts again by itself.",
            ) from None

    def read_json(self, name: str) -> Any:
        """Return a JSON document; None if it is missing or damaged."""
        return self.read_parsed(name, json.loads)

    def read_parsed(self, name: str, parse: Callable[[bytes], Result]) -> Result | None:
        """Return what `parse` makes of a file's content.

        None if the file is missing, or damaged: `parse` raises a ValueError then.
        """
        try:
            return self.read(name, lambda path: parse(path.read_bytes()))
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("%s is damaged and is treated as missing", name.rpartition("/")[2])
            return None

    def leftovers(self) -> Iterator[Path]:
        """Yield the half-written files on this machine, of running and of killed processes."""
        for folder in {self.folder, self.scratch}:
            yield from folder.rglob(f"*{PARTIAL}")

    # -- writing ----------------------------------------------------------------------------------

    def write(self, name: str, save: Callable[[IO[bytes]], object]) -> None:
        """Write a shared file; after a failure the previous file is still there."""
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
        """Delete a shared file if it exists; other machines then no longer use their copies."""
        if self._bucket:
            self._bucket.remove(self._key(name))
        self._drop(name)

    def clear(self) -> None:
        """Delete all shared files of the project, and this machine's copies and scratch files."""
        if self._bucket:
            _together(self._bucket.remove, self._bucket.keys(self._prefix))
        for folder in {self.folder, self.scratch}:
            shutil.rmtree(folder, ignore_errors=True)

    def drop_all_copies(self) -> None:
        """Delete this machine's copies of the bucket's files; later reads fetch them again."""
        if self._bucket:
            shutil.rmtree(self.folder, ignore_errors=True)

    def drop_copies(self, chunks: Iterable[str]) -> None:
        """Delete this machine's copies of all files that change when scans are erased.

        Args:
            chunks: The files of embeddings that were changed or deleted.
        """
        if self._bucket:
            changed = map(embeddings_name, chunks)
            for name in [*changed, *self._here(MAPS), *self._here(DRAFTS), *self._here(REVIEWS)]:
                self._drop(name)

    def probe(self) -> None:
        """Write, list, read and delete a file. Only for a project without files."""
        name = f"{ROUNDS}/probe.json"
        try:
            self.write_json(name, name)
            if self._bucket:
                self._drop(name)
            if self.names(ROUNDS) != [name] or self.read_json(name) != name:
                raise StorageError(
                    "The store at ARTIFACTS_URL did not return a file that was just written.",
                    "Use a store in which a written file is visible at once.",
                )
            self.clear()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- copies of the bucket's files -------------------------------------------------------------

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _here(self, kind: str) -> list[str]:
        paths = sorted((self.folder / kind).glob("[!.]*"))
        return [f"{kind}/{path.name}" for path in paths if path.suffix != PARTIAL]

    def _is_final(self, name: str) -> bool:
        return _kind(name) in LASTING and (self.folder / name).exists()

    def _fetch(self, bucket: Bucket, name: str) -> bool:
        """Bring a copy up to date; return whether the file was fetched."""
        # Read the mark first: a concurrent write then costs a second download, never a stale copy.
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
        """Delete the copies of a kind whose file is no longer in the bucket."""
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
        """Return the mark of the copy, "" if there is no copy."""
        try:
            return self._beside(name).read_text() if (self.folder / name).exists() else ""
        except FileNotFoundError:
            return ""


def _kind(name: str) -> str:
    return name.partition("/")[0]


def _together(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply the work to all items in threads; return the results. An error cancels the rest."""
    todo = list(items)
    if len(todo) < 2:
        return [work(item) for item in todo]
    pool = ThreadPoolExecutor(min(TRANSFERS, len(todo)), thread_name_prefix="artifacts")
    try:
        return list(pool.map(work, todo))
    finally:
        pool.shutdown(cancel_futures=True)
