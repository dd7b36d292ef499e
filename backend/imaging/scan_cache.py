"""A project's scans as arrays: fetched once and kept at working size, in limited disk space.

A scan has one page, a slab several: its address then holds those of its pages (see
`storage.pages`). All pages of a scan have one size.
"""

from __future__ import annotations

import contextvars
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend import logs
from backend.errors import ImageError
from backend.imaging.decoder_process import DecodedImage, Decoders
from backend.imaging.pixels import Pixels
from backend.storage import artifacts
from backend.storage import pages as addresses

FETCHERS = 8  # threads; they mostly wait for a server
# The longer side of a kept scan: encoders take 224 pixels, the small networks fewer.
WORKING_SIZE = 256
_SIZE = "scans-"  # begins the name of a folder: the longer side of the scans in it follows


@dataclass(frozen=True)
class Scan:
    """One scan at working size, with the size and digest of the original."""

    pages: tuple[Pixels, ...]  # each (h, w) or (h, w, 3), in [0, 1]; one, or those of a slab
    size: tuple[int, int]  # height and width of the original
    digest: str  # equal for scans with equal pixels

    @property
    def image(self) -> Pixels:
        """The page that stands for the scan where one picture is shown: the middle one."""
        return self.pages[len(self.pages) // 2]


class Scans:
    """The scans of one project.

    Args:
        fetch: Returns the bytes of an image, given its address and task id.
        folder: Holds the decoded scans.
        decoders: Decode the images; shared by all projects.
        longest: The longer side of a kept scan, in pixels; smaller scans stay as they are.
        max_pixels: Larger images are refused before they are decoded.
        max_bytes: Disk space for the scans of all sizes together.
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
        """Return one scan, from disk if it was decoded before.

        Raises:
            ImageError: When one of its pages cannot be fetched or decoded, or their sizes differ.
        """
        path = self._path(task_id, url)
        with suppress(FileNotFoundError, *artifacts.DAMAGED):
            return _read(path)
        first, *others = decoded = self._decoded(task_id, addresses.separate(url))
        digest = artifacts.digest([page.digest for page in decoded]) if others else first.digest
        arrays: dict[str, Any] = {_page_name(i): page.small for i, page in enumerate(decoded)}
        arrays |= {"size": np.array(first.size), "digest": np.array(digest)}
        artifacts.write(
            path,
            lambda file: np.savez(file, **arrays),
            synced=False,  # the file holds checksums; a damaged scan is fetched again
        )
        return Scan(tuple(_floats(page.small) for page in decoded), first.size, digest)

    def _decoded(self, task_id: int, urls: Sequence[str]) -> list[DecodedImage]:
        if len(urls) > addresses.MOST_PAGES:
            raise ImageError(
                f"Task {task_id}: it has {len(urls)} pages, expected at most "
                f"{addresses.MOST_PAGES}.",
                "Make slabs of fewer slices, as `firstlight import --slab 5` does.",
            )
        decoded = []
        for number, url in enumerate(urls, start=1):
            try:
                decoded.append(self._page(task_id, url))
            except ImageError as error:
                of = f" This is page {number} of {len(urls)}." if len(urls) > 1 else ""
                raise ImageError(f"{error.what}{of}", error.fix) from None
            if decoded[-1].size != decoded[0].size:
                (height, width), (h, w) = decoded[0].size, decoded[-1].size
                raise ImageError(
                    f"Task {task_id}: its pages differ in size: page 1 has {width} x {height} "
                    f"pixels, page {number} has {w} x {h}.",
                    "Make a slab of slices of one volume, all of one size.",
                )
        return decoded

    def _page(self, task_id: int, url: str) -> DecodedImage:
        data = self._fetch(url, task_id)
        try:
            return self._decoders.decode(data, longest=self._longest, max_pixels=self._max_pixels)
        except ImageError as error:
            raise ImageError(f"Task {task_id}: {error.what}", error.fix) from None

    def many(self, wanted: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Scan | ImageError]]:
        """Yield (task id, scan or its error) in order, fetching only a few scans ahead."""
        rows = iter(wanted)
        pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="scans")
        ahead: deque[tuple[int, Future[Scan | ImageError]]] = deque()
        try:
            while True:
                for task_id, url in islice(rows, 2 * FETCHERS - len(ahead)):
                    # Copy the log context, so that records of the thread name project and scan.
                    run = contextvars.copy_context().run
                    ahead.append((task_id, pool.submit(run, self._attempt, task_id, url)))
                if not ahead:
                    return
                task_id, scan = ahead.popleft()
                yield task_id, scan.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def trim(self) -> None:
        """Delete the scans unread for longest until the folder fits into its limit."""
        kept = []
        for file in self._files():
            with suppress(FileNotFoundError):  # another process may trim as well
                status = file.stat()
                kept.append((status.st_mtime, status.st_size, file.path))
        excess = sum(size for _, size, _ in kept) - self._max_bytes
        for _, size, path in sorted(kept):
            if excess <= 0:
                return
            excess -= size
            Path(path).unlink(missing_ok=True)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Yield the kept scans. A large pool has many: scandir is faster than glob."""
        for folder in self._folder.glob(f"{_SIZE}*"):
            with suppress(FileNotFoundError):  # the project may be forgotten meanwhile
                yield from (file for file in os.scandir(folder) if file.name.endswith(".npz"))

    def _attempt(self, task_id: int, url: str) -> Scan | ImageError:
        with logs.context(task=task_id):
            try:
                return self.get(task_id, url)
            except ImageError as error:
                return error

    def _path(self, task_id: int, url: str) -> Path:
        return self._folder / f"{_SIZE}{self._longest}" / f"{_stem(task_id, url)}.npz"


def erase(folder: Path, addresses: Mapping[int, str | None]) -> None:
    """Delete the kept scans of some tasks, and their half-written files.

    Args:
        folder: The folder of `Scans`.
        addresses: Task id to today's address, whose scan stays; None for a deleted task.
    """
    stay = {_stem(task_id, url) for task_id, url in addresses.items() if url is not None}
    for path in folder.glob(f"{_SIZE}*/*"):
        stem = path.name.removeprefix(".").partition(".")[0]
        task_id = stem.partition("-")[0]
        if task_id.isdigit() and int(task_id) in addresses and stem not in stay:
            path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Delete all kept scans of a project."""
    for kept in folder.glob(f"{_SIZE}*"):
        shutil.rmtree(kept, ignore_errors=True)


def sizes(folder: Path) -> list[int]:
    """Return the sizes, in pixels of the longer side, that scans of a project are kept at."""
    return [int(kept.name.removeprefix(_SIZE)) for kept in sorted(folder.glob(f"{_SIZE}*"))]


def _stem(task_id: int, url: str) -> str:
    return f"{task_id}-{artifacts.digest(url)[:16]}"


def _page_name(number: int) -> str:
    """Return the name of a page, from 0, in the file of its scan."""
    return f"page{number}" if number else "image"


def _floats(small: npt.NDArray[np.uint8]) -> Pixels:
    return small.astype(np.float32) / np.float32(255)


def _read(path: Path) -> Scan:
    # Open the file here: numpy does not close a damaged file.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        height, width = stored["size"].tolist()
        others = [_page_name(number) for number in range(1, addresses.MOST_PAGES)]
        names = ["image", *(name for name in others if name in stored)]
        pages = tuple(_floats(stored[name]) for name in names)
        scan = Scan(pages, (height, width), str(stored["digest"]))
    with suppress(OSError):  # this process may not write the worker's folder
        path.touch()  # note the read: many file systems do not
    return scan
