"""The map of a project as its page draws it: one point a scan, from what rounds left behind.

Nothing is fitted here. A scan without a place, new or not to be read, lies in a row below the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import StorageError
from backend.storage import artifacts, records
from backend.storage.artifacts import ProjectFiles, scan_name
from backend.storage.embeddings import Place
from backend.storage.ledger import Ledger
from backend.storage.records import QueueRecord
from backend.storage.store import Store

Array = npt.NDArray[Any]

STATES = ("next", "queued", "labelled", "validation", "skipped", "unused", "unreadable")
FIRST = 10  # of the queue that are "next"
NOWHERE = -1  # the cluster of a scan without one


@dataclass(frozen=True)
class Queue:
    """The scans that wait in the live queue, first to last, and why each stands where it does."""

    order: list[int] = field(default_factory=list)
    reasons: Mapping[int, str] = field(default_factory=dict)
    record: QueueRecord = field(default_factory=QueueRecord)  # of the round it was made in

    def part(self, start: int, most: int) -> list[dict[str, Any]]:
        """Return some of the waiting scans: task, position from 1 on, reason and cluster."""
        scans = self.record.scans
        return [
            {
                "task": task,
                "position": position,
                "reason": self.reasons.get(task, ""),
                "cluster": scans.get(task, {}).get("cluster"),
            }
            for position, task in enumerate(self.order[start : start + most], start=start + 1)
        ]


def queue(store: Store, files: ProjectFiles, project_id: int, now: Ledger) -> Queue:
    """Return the live queue without what Label Studio would not serve any more.

    A scan that still needs another annotator is served, labelled or not.
    """
    project = store.projects.known(project_id)
    live = store.publications.get(project_id, project.live_version)
    if live is None:
        return Queue()
    record = records.read_queue(files, live.round)
    order = record.order if record else live.published
    return Queue(
        order=[task for task in order if task in now.open],
        reasons=record.explained(now.sources) if record else {},
        record=record or QueueRecord(),
    )


def read(store: Store, files: ProjectFiles, project_id: int, now: Ledger) -> dict[str, Any]:
    """Return the points as columns, one entry a scan in each of them.

    `task`, `x` and `y` in [0, 1], `cluster` (-1 for none), `state` (a place in `states`), `rank` in
    the queue (0 for none) and `why` it has that rank or state.

    Raises:
        NotFound: If the project is not known here.
    """
    waiting = queue(store, files, project_id, now)
    ids = [task.id for task in now.tasks]
    places = _places(store, files, project_id, waiting.record)
    x, y = _spread([places.get(i, (np.nan, np.nan)) for i in ids])
    clusters = _clusters(store, files, project_id, waiting.record)
    rank = {task: position for position, task in enumerate(waiting.order, start=1)}
    states = _states(now, rank, store.labels.splits(project_id))
    return {
        "states": STATES,
        "task": ids,
        "x": x,
        "y": y,
        "cluster": [clusters.get(i, NOWHERE) for i in ids],
        "state": [STATES.index(states[i]) for i in ids],
        "rank": [rank.get(i, 0) for i in ids],
        "why": [_why(i, states[i], now, waiting) for i in ids],
        "placed": sum(i in places for i in ids),
    }


def _states(now: Ledger, rank: Mapping[int, int], held: Mapping[int, bool]) -> dict[int, str]:
    return {task.id: _state(task.id, now, rank, held) for task in now.tasks}


def _state(task: int, now: Ledger, rank: Mapping[int, int], held: Mapping[int, bool]) -> str:
    if task in now.unreadable:
        return "unreadable"
    if task in now.usable:
        return "validation" if held.get(task) else "labelled"
    if task in now.skipped:
        return "skipped"
    if task not in now.open:
        return "unused"
    return "next" if 0 < rank.get(task, 0) <= FIRST else "queued"


def _why(task: int, state: str, now: Ledger, waiting: Queue) -> str:
    if state == "unreadable":
        return now.unreadable[task]
    if state == "validation":
        return "its label is held out, to measure the model"
    if state == "labelled":
        return "its label trains the model"
    return waiting.reasons.get(task, "")


# -- where a scan lies ----------------------------------------------------------------------------


def _places(
    store: Store, files: ProjectFiles, project_id: int, record: QueueRecord
) -> dict[int, tuple[float, float]]:
    """Return where each scan lies on the map of a round, by task id."""
    if not record.encoder:
        return {}
    name = artifacts.map_name(record.space)
    drawn = _arrays(files, name, "scans", "coordinates")
    if drawn is None:
        return {}
    fitted = dict(zip(drawn[0].astype(str), drawn[1], strict=True))
    found = store.embeddings.all(project_id, record.encoder)
    known = {i: fitted[_row(one)] for i, one in found.items() if _row(one) in fitted}
    new = {i: one for i, one in found.items() if i not in known}
    return _flat({**known, **_transformed(files, name, new)})


def _arrays(files: ProjectFiles, name: str, *columns: str) -> list[Array] | None:
    """Return arrays of an archive; None without one, or with a damaged one."""

    def load(path: Path) -> list[Array]:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return [archive[column] for column in columns]

    with suppress(FileNotFoundError, *artifacts.DAMAGED):
        return files.read(name, load)
    return None


def _row(one: Place) -> str:
    return scan_name(one.chunk, one.row)


def _transformed(files: ProjectFiles, name: str, new: Mapping[int, Place]) -> dict[int, Array]:
    """Return where scans lie that came after the map was fitted."""
    if not new:
        return {}
    # Only these need the maths, which a web process does without until then.
    from backend.rounds.maps.embedding_map import Maps
    from model.projection import Projection

    maps = Maps(files, new)
    try:
        embeddings = maps.embeddings(range(len(new)))
    except StorageError:
        return {}  # they lie apart until a round has embedded them again
    coordinates = files.read(name, Projection.load).transform(embeddings)
    return dict(zip(maps.ids, coordinates, strict=True))


def _flat(places: Mapping[int, Array]) -> dict[int, tuple[float, float]]:
    """Return places in two dimensions: those of more lie on their first two principal axes."""
    if not places:
        return {}
    points = np.stack(list(places.values())).astype(np.float64)
    if points.shape[1] != 2:
        points = points - points.mean(axis=0)
        axes = np.linalg.eigh(points.T @ points)[1][:, ::-1]
        points = points @ axes[:, :2]
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return {i: (float(x), float(y)) for i, (x, y) in zip(places, points, strict=True)}


def _spread(places: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Scale places to [0, 1], both axes alike; what has none goes into a row below."""
    points = np.array(places, np.float64).reshape(-1, 2)
    lost = np.isnan(points[:, 0])
    if not lost.all():
        low, high = points[~lost].min(axis=0), points[~lost].max(axis=0)
        span = float((high - low).max()) or 1.0
        points = (points - (low + high) / 2) / span + 0.5
    points[lost, 0] = np.linspace(0, 1, int(lost.sum()))
    points[lost, 1] = -0.12
    rounded = np.round(points, 4)
    return rounded[:, 0].tolist(), rounded[:, 1].tolist()


def _clusters(
    store: Store, files: ProjectFiles, project_id: int, record: QueueRecord
) -> dict[int, int]:
    """Return the cluster of every scan that a round ranked, or that the map was clustered with."""
    if not record.encoder:
        return {}
    ranked = {task: terms["cluster"] for task, terms in record.scans.items()}
    drawn = _arrays(files, artifacts.map_name(record.space), "scans")
    scans = drawn[0].astype(str).tolist() if drawn else []
    budget = record.options["cold_start_budget"]
    name = artifacts.clusters_name(record.space, scans, budget)
    found = _arrays(files, name, "clusters")
    if found is None:
        return ranked
    cluster = dict(zip(scans, found[0].tolist(), strict=True))
    embedded = store.embeddings.all(project_id, record.encoder)
    fitted = {i: cluster[_row(one)] for i, one in embedded.items() if _row(one) in cluster}
    return {**fitted, **ranked}
