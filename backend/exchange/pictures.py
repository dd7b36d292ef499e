"""Slices of volumes as PNG files, with the manifest's entry that tells where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from backend.errors import ConfigError
from backend.exchange import slice_choice
from backend.exchange.slice_choice import Slab
from backend.imaging import manifest
from backend.imaging.manifest import Slice
from backend.imaging.planes import Array
from backend.imaging.volumes import Volume
from backend.imaging.windows import Window, window_of
from backend.storage import artifacts

_SHOWN_AS_STORED = Window(0, 255)


@dataclass(frozen=True)
class Writer:
    """Writes the slices of volumes.

    Attributes:
        root: The folder that is imported.
        folder: Holds the pictures, those of a volume in a folder of its own.
        window: A preset, `percentile` or LEVEL/WIDTH.
        slices: `all`, `tissue` or every:N.
        slab: Pages of a task at most; 1 for a task of one slice.
    """

    root: Path
    folder: Path
    window: str
    slices: str
    slab: int = 1

    def write(
        self, volume: Volume, name: str, old: manifest.Volume | None, drawn: Sequence[Slab] = ()
    ) -> manifest.Volume:
        """Write the pictures that are not there yet; return the manifest's entry of the volume.

        Args:
            volume: Is read.
            name: Stands in task data and begins the names of pictures.
            old: What an earlier import wrote of the volume; its slices stay, and stay tasks.
            drawn: The slices of each task that the project has of it, if their manifest is gone.
                They stay tasks, and pictures that are there must not change.

        Raises:
            FirstlightError: If the volume cannot be read, its pictures would change, or the folder
                cannot be written.
        """
        known = {one.index: one for one in old.slices} if old else {}
        earlier = old.tasks if old else [one for one in drawn if {*one} <= {*volume.present}]
        tasks = {index for pages in earlier for index in pages}
        tasks |= set(slice_choice.chosen(self.slices, volume))
        slabs = self._slabs(tasks, volume, earlier)
        tasks |= {index for slab in slabs for index in slab}
        shown = sorted(tasks) if slabs else slice_choice.with_neighbours(tasks, volume.present)
        there = {index: one for index, one in known.items() if (self.folder / one.picture).exists()}
        missing = [index for index in shown if index not in there]
        new = self._pictures(volume, name, missing, kept=bool(drawn) and old is None)
        urls = {index: one.url for index, one in known.items()}
        slices = [
            one.model_copy(update={"is_task": index in tasks, "url": urls.get(index, "")})
            for index, one in sorted({**known, **new}.items())
        ]
        return self._entry(volume, name, slices, slabs)

    def _slabs(self, tasks: Collection[int], volume: Volume, known: Sequence[Slab]) -> list[Slab]:
        if self.slab == 1:
            return []
        return slice_choice.slabs(tasks, list(volume.present), self.slab, known)

    def _pictures(
        self, volume: Volume, name: str, indices: Sequence[int], *, kept: bool
    ) -> dict[int, Slice]:
        if not indices:
            return {}
        window = window_of(self.window, volume) if volume.windowed else _SHOWN_AS_STORED
        made = {}
        for index in indices:
            values = volume.plane.show(volume.read(index))
            grey = window.grey(values, inverted=volume.inverted)
            content = _png(grey)
            picture = f"{name}/{name}_{index:04}.png"
            if kept:
                self._check_unchanged(volume, self.folder / picture, grey)
            artifacts.write(self.folder / picture, partial(_write, content), synced=False)
            file = volume.files.get(index)
            made[index] = Slice(
                index=index,
                picture=picture,
                picture_hash=hashlib.sha256(content).hexdigest(),
                file=self._relative(file.path) if file else "",
                frame=file.frame if file else None,
                sop_instance=file.sop_instance if file else "",
            )
        return made

    def _check_unchanged(self, volume: Volume, path: Path, grey: Array) -> None:
        if not path.exists():
            return
        with Image.open(path) as picture:
            if np.array_equal(np.asarray(picture), grey):
                return
        raise ConfigError(
            f"{volume.title} was imported in another window than {self.window}, and the manifest "
            "of that import is gone: other pictures would appear below what people drew.",
            "Import with the --window of that time, put manifest.json back from a copy, or import "
            "into a new project by --new.",
        )

    def _entry(
        self, volume: Volume, name: str, slices: Sequence[Slice], slabs: Sequence[Slab]
    ) -> manifest.Volume:
        return manifest.Volume(
            name=name,
            root=str(self.root.resolve()),
            source=self._relative(volume.source),
            kind=volume.kind,
            source_hash=volume.digest,
            shape=volume.shape,
            affine=manifest.rows_of(volume.affine),
            spacing=volume.spacing,
            has_spacing=volume.has_spacing,
            frame=volume.frame,
            plane=volume.plane,
            slices=tuple(slices),
            slabs=tuple(slabs),
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _png(picture: Array) -> bytes:
    file = BytesIO()
    # A fast level: the files are some percent larger than those of the best level.
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG", compress_level=4)
    return file.getvalue()
