"""A Label Studio in memory that lists a page of a large project without going through all tasks."""

from __future__ import annotations

import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from backend.storage import artifacts
from backend.storage.artifacts import ProjectFiles
from backend.storage.store import Store
from backend.storage.tables import Embedding, Task
from model import encoders
from model.phantoms import Phantom, generate
from tests.backend.fake_label_studio import FakeLabelStudio, png

Floats = npt.NDArray[np.float32]

ENCODER = "pixels"
SIZE = 64
CHUNK = 256  # embeddings a file
SPREAD = 0.05  # of the embeddings around those of the phantoms
DRAWN = 500  # different phantoms; each scan is one of them with a noise of its own


class LargePool(FakeLabelStudio):
    """One project, whose tasks come before its first label and are never deleted.

    Args:
        scans: Number of scans.
        moments: Returns when the next scan was imported, ascending.
    """

    def __init__(self, scans: int, moments: Callable[[], float]) -> None:
        super().__init__(moments)
        self.number = self.add_project()
        self.files = _Images()
        self.ids = [self.add_task(self.number) for _ in range(scans)]
        tasks = self.projects[self.number].tasks
        self._times = [str(tasks[i]["updated_at"]) for i in self.ids]
        self._changed: set[int] = set()
        self.seconds = 0.0  # in which it made its answers

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer, and count the seconds."""
        started = time.monotonic()
        try:
            return super().__call__(request)
        finally:
            self.seconds += time.monotonic() - started

    def annotate(self, task_id: int, *given: Any, **named: Any) -> int:
        """Submit an annotation; see `FakeLabelStudio.annotate`."""
        self._changed.add(task_id)
        return super().annotate(task_id, *given, **named)

    def _get_tasks(self, request: httpx.Request) -> httpx.Response:
        params = request.url.params
        query = json.loads(params["query"])
        size, names = int(params["page_size"]), params["include"].split(",")
        asked = {
            item["filter"]: item["value"] for item in query.get("filters", {}).get("items", [])
        }
        if query["ordering"] == ["-tasks:updated_at"]:
            found = sorted({*self.ids[-size:], *self._changed}, key=self._time, reverse=True)
        else:
            found = self._after(asked["filter:tasks:id"], asked.get("filter:tasks:updated_at", ""))
        page = [self._listed(self._task(i)) for i in found[:size]]
        tasks = [{name: task[name] for name in names} for task in page]
        return httpx.Response(200, json={"total": len(found), "tasks": tasks})

    def _after(self, task_id: int, since: str) -> list[int]:
        """Return the tasks behind an id that changed since a time, by id."""
        first = bisect_right(self.ids, task_id)
        rest = self.ids[max(first, bisect_left(self._times, since)) :]
        changed = {i for i in self._changed if i > task_id and self._time(i) >= since}
        return sorted({*rest, *changed}) if changed else rest

    def _time(self, task_id: int) -> str:
        return str(self._task(task_id)["updated_at"])


def phantom_of(task_id: int) -> Phantom:
    """Return the phantom that a task shows, without the noise."""
    return _phantoms()[task_id % DRAWN]


@cache
def _phantoms() -> list[Phantom]:
    return generate(DRAWN, size=SIZE)


@cache
def _centres() -> Floats:
    return encoders.load(ENCODER).encode([phantom_of(i).image for i in range(DRAWN)])


def embeddings_of(task_ids: Sequence[int], rng: np.random.Generator) -> Floats:
    """Return an embedding for each task, near that of its phantom, shape (n, m)."""
    centres = _centres()
    noise = rng.normal(0, SPREAD, (len(task_ids), centres.shape[1]))
    return (centres[[i % DRAWN for i in task_ids]] + noise).astype(np.float32)


def embed(store: Store, files: ProjectFiles, fake: LargePool) -> None:
    """Store the scans and their embeddings as a worker does that has read them."""
    encoder, rng = encoders.load(ENCODER), np.random.default_rng(0)
    for start in range(0, len(fake.ids), CHUNK):
        ids = fake.ids[start : start + CHUNK]
        chunk = artifacts.digest(encoder.name, ids) + ".npy"
        files.write_array(artifacts.embeddings_name(chunk), embeddings_of(ids, rng))
        whose = {"project_id": fake.number, "encoder": encoder.name, "chunk": chunk}
        places = [{**whose, "task_id": i, "row": row} for row, i in enumerate(ids)]
        with store.session() as session:
            session.execute(sa.insert(Task), [_row(fake, i) for i in ids])
            session.execute(sa.insert(Embedding), places)


def _row(fake: LargePool, task_id: int) -> dict[str, object]:
    task = fake.projects[fake.number].tasks[task_id]
    return {
        "project_id": fake.number,
        "id": task_id,
        "url": task["data"]["image"],
        "updated_at": task["updated_at"],
        "height": SIZE,
        "width": SIZE,
        "pixels": artifacts.digest(task_id),
    }


class _Images(dict[str, bytes]):
    """The images by path, made when they are asked for: a million do not fit into memory."""

    def __contains__(self, path: object) -> bool:
        return str(path).startswith("/data/upload/")

    def __getitem__(self, path: str) -> bytes:
        task_id = int(path.rpartition("/")[2].removesuffix(".png"))
        noise = np.random.default_rng(task_id).normal(0, 0.05, (SIZE, SIZE))
        return png(np.clip(phantom_of(task_id).image + noise, 0, 1))
