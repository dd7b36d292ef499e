"""A project's scans as arrays: fetched once, kept small on disk, in bounded space."""

from __future__ import annotations

import contextvars
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend import logs
from backend.errors import ImageError
from backend.imaging.decoder_process import Decoders
from backend.imaging.pixels import Pixels
from backend.storage import artifacts

FETCHERS = 8  # mostly they wait for a server
# The longer side of a kept scan: encoders look at 224 pixels, the small networks at fewer.
WORKING_SIZE = 256
_SIZE = "scans-"  # begins the name of a folder: the longer side of the scans in it follows


@dataclass(frozen=True)
class Scan:
    """One scan at working size, and what is known of the original."""

    image: Pixels  # (h, w) or (h, w, 3), in [0, 1]
    size: tuple[int, int]  # height and width of the original
    digest: str  # equal for scans with equal pixels


class Scans:
    """The scans of one project.

    Args:
        fetch: Address and task id to the bytes of the image.
        folder: Where decoded scans are kept.
        decoders: Decode what is fetched; shared by all projects.
        longest: The longer side of a kept scan, in pixels; smaller scans stay as they are.
        max_pixels: Larger images are refused before they are decoded.
        max_bytes: How much of the folder scans may take, those of every size together.
    """

    def __init__(
        self,
        fetch: Callable[[str, int], bytes],
        folder: Path,
        decoders: Decoders,
        *,
        longest: int,
        max_pixels: int,
        max_bytes: int = 4_000_000_000,
    ) -> None:
        self._fetch = fetch
        self._folder = folder
        self._decoders = decoders
        self._longest = longest
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes

    def get(self, task_id: int, url: str) -> Scan:
        """Return one scan, from disk when it was seen before.

        Raises:
            ImageError: When it cannot be fetched or decoded.
        """
        path = self._path(task_id, url)
        with suppress(FileNotFoundError, *artifacts.DAMAGED):
            return _read(path)
        data = self._fetch(url, task_id)
        try:
            found = self._decoders.decode(data, longest=self._longest, max_pixels=self._max_pixels)
        except ImageError as error:
            raise ImageError(f"Task {task_id}: {error.what}", error.fix) from None
        artifacts.write(
            path,
            lambda file: np.savez(
                file,
                image=found.small,
                size=np.array(found.size),
                digest=np.array(found.digest),
            ),
        )
        return Scan(_floats(found.small), found.size, found.digest)

    def many(self, wanted: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Scan | ImageError]]:
        """Yield (task id, scan or why not) in order; a few are fetched ahead, never all."""
        rows = iter(wanted)
        pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="scans")
        ahead: deque[tuple[int, Future[Scan | ImageError]]] = deque()
        try:
            while True:
                for task_id, url in islice(rows, 2 * FETCHERS - len(ahead)):
                    # What a library logs on the thread is about this project and this scan.
                    run = contextvars.copy_context().run
                    ahead.append((task_id, pool.submit(run, self._attempt, task_id, url)))
                if not ahead:
                    return
                task_id, scan = ahead.popleft()
                yield task_id, scan.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def trim(self) -> None:
        """Drop the scans that were not read for longest until the folder fits."""
        kept = []
        for path in self._folder.glob(f"{_SIZE}*/*.npz"):
            with suppress(FileNotFoundError):  # another process may trim as well
                found = path.stat()
                kept.append((found.st_mtime, found.st_size, path))
        excess = sum(size for _, size, _ in kept) - self._max_bytes
        for _, size, path in sorted(kept):
            if excess <= 0:
                return
            excess -= size
            path.unlink(missing_ok=True)

    def _attempt(self, task_id: int, url: str) -> Scan | ImageError:
        with logs.context(task=task_id):
            try:
                return self.get(task_id, url)
            except ImageError as error:
                return error

    def _path(self, task_id: int, url: str) -> Path:
        return self._folder / f"{_SIZE}{self._longest}" / f"{_stem(task_id, url)}.npz"


def erase(folder: Path, addresses: Mapping[int, str | None]) -> None:
    """Delete what is kept of some tasks, half-written files too.

    Args:
        folder: The one that `Scans` keeps scans in.
        addresses: Task id to today's address, whose scan stays; None when the task is gone.
    """
    stay = {_stem(task_id, url) for task_id, url in addresses.items() if url is not None}
    for path in folder.glob(f"{_SIZE}*/*"):
        stem = path.name.removeprefix(".").partition(".")[0]
        task_id = stem.partition("-")[0]
        if task_id.isdigit() and int(task_id) in addresses and stem not in stay:
            path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Delete all scans that are kept of a project."""
    for kept in folder.glob(f"{_SIZE}*"):
        shutil.rmtree(kept, ignore_errors=True)


def sizes(folder: Path) -> list[int]:
    """Return the sizes, in pixels of the longer side, that scans of a project are kept at."""
    return [int(kept.name.removeprefix(_SIZE)) for kept in sorted(folder.glob(f"{_SIZE}*"))]


def _stem(task_id: int, url: str) -> str:
    return f"{task_id}-{artifacts.digest(url)[:16]}"


def _floats(small: npt.NDArray[np.uint8]) -> Pixels:
    return small.astype(np.float32) / np.float32(255)


def _read(path: Path) -> Scan:
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        height, width = stored["size"].tolist()
        scan = Scan(_floats(stored["image"]), (height, width), str(stored["digest"]))
    with suppress(OSError):  # a folder that only the worker may write
        path.touch()  # many disks do not note when a file was read
    return scan
