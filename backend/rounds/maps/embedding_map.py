"""A project's map: fitted once; later scans are placed on it until the pool has grown too much.

A new fit moves every scan, and changes clusters, queue and page with it. So a map stays until the
scans that joined since the fit reach a quarter of the fitted scans that still exist.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from backend.errors import StorageError
from backend.storage import artifacts
from backend.storage.artifacts import ProjectFiles, Space, embeddings_name, scan_name
from backend.storage.embeddings import Place
from model import clustering, projection
from model.clustering import Clustering
from model.projection import Projection

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Read = TypeVar("Read")

GROWTH = 0.25  # new scans, as a share of the fitted scans that still exist


class LostEmbeddings(StorageError):
    """A file of embeddings is missing or damaged; `chunk` is its name."""

    def __init__(self, chunk: str) -> None:
        super().__init__(
            "A file of embeddings is missing or damaged.",
            "The next round embeds its scans again.",
        )
        self.chunk = chunk


@dataclass(frozen=True)
class Map:
    """The scans of a project as points, one row each, by task id."""

    ids: list[int]  # ascending
    coordinates: Floats  # (n, m)
    clustering: Clustering
    warnings: tuple[str, ...]

    def without(self, left_out: Collection[int]) -> Map:
        """Return the map without some scans; they leave the clusters too."""
        rows = np.flatnonzero(~self.among(left_out))
        if len(rows) == len(self.ids):
            return self
        points = self.coordinates.astype(np.float64)
        return Map(
            ids=self._tasks[rows].tolist(),
            coordinates=self.coordinates[rows],
            clustering=clustering.carry_over(self.clustering, points, points[rows], rows),
            warnings=self.warnings,
        )

    def among(self, tasks: Collection[int]) -> npt.NDArray[np.bool_]:
        """Return which scans are among these, shape (n,)."""
        return np.isin(self._tasks, np.fromiter(tasks, np.int64, len(tasks)))

    def values(self, known: Mapping[int, float]) -> npt.NDArray[np.float64]:
        """Return the value of each scan, NaN without one, shape (n,).

        Args:
            known: Values by task id; tasks that are not on the map are left out.
        """
        found = np.full(len(self.ids), np.nan)
        tasks = np.fromiter(known, np.int64, len(known))
        there = np.isin(tasks, self._tasks)
        rows = np.searchsorted(self._tasks, tasks[there])
        found[rows] = np.fromiter(known.values(), np.float64, len(known))[there]
        return found

    @cached_property
    def _tasks(self) -> npt.NDArray[np.int64]:
        return np.array(self.ids, np.int64)


@dataclass(frozen=True)
class _MapFit:
    """A fit of a map, and the scans that it was fitted on."""

    scans: list[str]
    projection: Projection

    def save(self, files: ProjectFiles, name: str) -> None:
        content = {"scans": np.array(self.scans, bytes), **vars(self.projection)}
        files.write(name, lambda file: np.savez(file, **content))

    @classmethod
    def load(cls, path: Path) -> _MapFit:
        # Open the file here: numpy does not close a damaged file.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return cls(archive["scans"].astype(str).tolist(), Projection.load(path))

    def without(self, lost: npt.NDArray[np.bool_]) -> _MapFit | None:
        """Return the map with each lost scan moved to its nearest remaining neighbour.

        The rows stay, because clusters refer to rows. None when too few scans remain.

        Args:
            lost: True for the rows of lost scans, shape (n,).
        """
        drawn = self.projection
        # An anchor has exactly the coordinates of its scan.
        anchors = _among(drawn.places, drawn.coordinates[lost])
        if lost.all() or (len(anchors) and anchors.all()):
            return None
        beside = _nearest(drawn.places, anchors)
        moved = replace(
            drawn,
            coordinates=drawn.coordinates[_nearest(drawn.coordinates, lost)],
            anchors=drawn.anchors[beside],
            places=drawn.places[beside],
        )
        return replace(self, projection=moved)


def erase(files: ProjectFiles, left: Mapping[str, Collection[int]]) -> None:
    """Remove the embeddings and coordinates of deleted scans from every map. Safe to repeat.

    Args:
        files: The project's.
        left: For each file of embeddings, the rows that still belong to a scan.
    """
    for name in files.names(artifacts.MAPS):
        try:
            fitted = files.read(name, _MapFit.load)
        except FileNotFoundError:
            continue
        except artifacts.DAMAGED:
            files.remove(name)  # damaged, and it may hold deleted scans
            continue
        lost = np.array([_is_lost(scan, left) for scan in fitted.scans], bool)
        # A lost scan with the coordinates of a remaining scan was erased by an earlier call.
        lost &= ~_among(fitted.projection.coordinates, fitted.projection.coordinates[~lost])
        if lost.any():
            _keep(files, name, fitted.without(lost))


def _is_lost(scan: str, left: Mapping[str, Collection[int]]) -> bool:
    chunk, _, row = scan.rpartition("/")
    return chunk in left and int(row) not in left[chunk]


def _keep(files: ProjectFiles, name: str, fitted: _MapFit | None) -> None:
    if fitted:
        fitted.save(files, name)
    else:
        files.remove(name)


def _among(points: Array, others: Array) -> npt.NDArray[np.bool_]:
    """Return a mask of the points that equal any of the others, shape (n,)."""
    known = {point.tobytes() for point in others}
    return np.array([point.tobytes() in known for point in points], bool)


def _nearest(points: Array, lost: npt.NDArray[np.bool_]) -> Array:
    """Return for each point its own row, or if lost the nearest remaining row; shape (n,)."""
    rows = np.arange(len(points))
    if lost.any():
        stay = np.flatnonzero(~lost)
        rows[lost] = stay[cKDTree(points[stay]).query(points[lost])[1]]
    return rows


class Maps:
    """The maps of one project.

    Args:
        files: The project's.
        stored: File and row of each scan's embedding, by task id.
        widths: The encoder's, for a fit: several parts are brought to one scale.

    Attributes:
        ids: Task ids of the embedded scans, ascending; a row is an index into them.
    """

    def __init__(
        self, files: ProjectFiles, stored: Mapping[int, Place], widths: Sequence[int] = ()
    ) -> None:
        self._files = files
        self._stored = stored
        self._widths = widths
        self.ids = sorted(stored)
        self._scans = [scan_name(stored[i].chunk, stored[i].row) for i in self.ids]

    def current(self, space: Space, budget: int) -> Map:
        """Return the map of all embedded scans, with the clusters for a cold-start budget."""
        fitted = self._fitted(space)
        place = {scan: row for row, scan in enumerate(fitted.scans)}
        rows = np.array([place.get(scan, -1) for scan in self._scans], int)
        coordinates = self._coordinates(fitted.projection, rows)
        return Map(
            ids=self.ids,
            coordinates=coordinates,
            clustering=self._clusters(space, fitted, budget, rows, coordinates),
            warnings=fitted.projection.warnings,
        )

    def embeddings(self, rows: Sequence[int] | Array) -> Floats:
        """Return the embeddings of these rows of `ids`, in a temporary file of the array's own.

        Raises:
            LostEmbeddings: When an embedding cannot be read.
            StorageError: When the disk has no room for the array.
        """
        chosen = [self._stored[self.ids[row]] for row in rows]
        chunks: dict[str, list[int]] = {}
        for position, embedding in enumerate(chosen):
            chunks.setdefault(embedding.chunk, []).append(position)
        # Fetch the files that this machine lacks in one go.
        self._files.paths([embeddings_name(name) for name in chunks])
        gathered: Floats = np.empty((0, 1), np.float32)
        for name, positions in chunks.items():
            part = self._chunk(name)
            if not len(gathered):
                gathered = self._on_disk((len(chosen), part.shape[1]))
            gathered[positions] = part[[chosen[position].row for position in positions]]
        return gathered

    def _chunk(self, name: str) -> Floats:
        file = embeddings_name(name)
        try:
            return self._files.read(file, lambda path: np.load(path, mmap_mode="r"))
        except FileNotFoundError:
            raise LostEmbeddings(name) from None
        except artifacts.DAMAGED:
            self._files.remove(file)  # else its scans count as embedded
            raise LostEmbeddings(name) from None

    def _on_disk(self, shape: tuple[int, int]) -> Floats:
        """Return an array in an unnamed file, so that it need not fit into memory.

        Raises:
            StorageError: When the disk has no room for it.
        """
        try:
            self._files.scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._files.scratch) as file:
                # Reserve the space now: a full disk at a later write kills the process.
                os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
                return np.memmap(file, np.float32, "r+", shape=shape)
        except OSError as error:
            raise StorageError(
                f"The disk has no room to gather the embeddings ({error.strerror}).",
                "Free disk space below DATA_DIR; the round starts again by itself.",
            ) from None

    def _fitted(self, space: Space) -> _MapFit:
        name = artifacts.map_name(space)
        fitted = self._whole(name, _MapFit.load)
        if fitted is not None:
            stayed = len(set(self._scans) & set(fitted.scans))
            if len(self._scans) - stayed <= GROWTH * stayed:
                return fitted
        embeddings = self.embeddings(range(len(self.ids)))
        fit = projection.fit(
            embeddings, method=space.projection, seed=space.seed, widths=self._widths
        )
        fitted = _MapFit(self._scans, fit)
        fitted.save(self._files, name)
        return fitted

    def _coordinates(self, fitted: Projection, rows: Array) -> Floats:
        coordinates: Floats = fitted.coordinates[rows]
        new = np.flatnonzero(rows < 0)
        if len(new):
            coordinates[new] = fitted.transform(self.embeddings(new))
        return coordinates

    def _clusters(
        self, space: Space, fitted: _MapFit, budget: int, rows: Array, coordinates: Floats
    ) -> Clustering:
        """Return the clusters of the fitted map; later scans join their nearest cluster."""
        drawn = fitted.projection.coordinates
        name = artifacts.clusters_name(space, fitted.scans, budget)
        clusters = self._whole(name, _load)
        if clusters is None:
            clusters = clustering.cluster(drawn.astype(np.float64), budget, seed=space.seed)
            for older in self._files.names(artifacts.CLUSTERS):
                self._files.remove(older)
            content = vars(clusters)
            self._files.write(name, lambda file: np.savez(file, **content))
        if np.array_equal(rows, np.arange(len(drawn))):
            return clusters
        points = coordinates.astype(np.float64)
        return clustering.carry_over(
            clusters, drawn.astype(np.float64), points, rows, seed=space.seed
        )

    def _whole(self, name: str, load: Callable[[Path], Read]) -> Read | None:
        """Return the content of a file; None if it is missing or damaged, to be made anew."""
        with suppress(FileNotFoundError, *artifacts.DAMAGED):
            return self._files.read(name, load)
        return None


def _load(path: Path) -> Clustering:
    # Open the file here: numpy does not close a damaged file.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return Clustering(
            clusters=archive["clusters"],
            k=int(archive["k"]),
            silhouette=float(archive["silhouette"]),
            medoids=archive["medoids"],
            strays=float(archive["strays"]),
        )
