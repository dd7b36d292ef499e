"""A project's scans as arrays: fetched once, kept small on disk, in bounded space."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend import artifacts, images
from backend.errors import ImageError

Pixels = npt.NDArray[np.float32]
FETCHERS = 4
# The longer side of a kept scan: encoders look at 224 pixels, the small networks at fewer.
WORKING_SIZE = 256


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
        longest: The longer side of a kept scan, in pixels; smaller scans stay as they are.
        max_pixels: Larger images are refused before they are decoded.
        max_bytes: How much the folder may hold.
    """

    def __init__(
        self,
        fetch: Callable[[str, int], bytes],
        folder: Path,
        *,
        longest: int,
        max_pixels: int,
        max_bytes: int = 4_000_000_000,
    ) -> None:
        self._fetch = fetch
        self._folder = folder / f"scans-{longest}"
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
        image = images.decode(self._fetch(url, task_id), max_pixels=self._max_pixels)
        small = images.shrink(image, self._longest)
        scan = Scan(
            image=_rounded(small).astype(np.float32) / np.float32(255),
            size=(image.shape[0], image.shape[1]),
            digest=hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32],
        )
        artifacts.write(
            path,
            lambda file: np.savez(
                file, image=_rounded(small), size=np.array(scan.size), digest=np.array(scan.digest)
            ),
        )
        return scan

    def many(self, wanted: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Scan | ImageError]]:
        """Yield (task id, scan or why not) in order; a few are fetched ahead, never all."""
        rows = iter(wanted)
        with ThreadPoolExecutor(FETCHERS) as pool:
            while part := list(islice(rows, 4 * FETCHERS)):
                yield from zip(
                    (task_id for task_id, _ in part),
                    pool.map(lambda row: self._attempt(*row), part),
                    strict=True,
                )

    def trim(self) -> None:
        """Drop the scans that were not read for longest until the folder fits."""
        files = sorted(self._folder.glob("*.npz"), key=lambda path: path.stat().st_atime)
        excess = sum(path.stat().st_size for path in files) - self._max_bytes
        for path in files:
            if excess <= 0:
                return
            excess -= path.stat().st_size
            path.unlink(missing_ok=True)

    def _attempt(self, task_id: int, url: str) -> Scan | ImageError:
        try:
            return self.get(task_id, url)
        except ImageError as error:
            return error

    def _path(self, task_id: int, url: str) -> Path:
        return self._folder / f"{task_id}-{artifacts.digest(url)[:16]}.npz"


def _rounded(image: Pixels) -> npt.NDArray[np.uint8]:
    return np.rint(image * 255).astype(np.uint8)


def _read(path: Path) -> Scan:
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        height, width = stored["size"].tolist()
        image = stored["image"].astype(np.float32) / np.float32(255)
        return Scan(image=image, size=(height, width), digest=str(stored["digest"]))
