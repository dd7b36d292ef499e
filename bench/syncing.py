"""Measure a full sync of many large labels: memory, seconds, and bytes written to the database.

    python -m bench.syncing                     10,000 labels of 100 kB each
    python -m bench.syncing --labels 2000

Another process plays Label Studio, so that its memory does not count. The first full sync copies
everything; before the second sync nothing has changed. The figures are the rise of anonymous memory
during the sync, the seconds, and the size of SQLite's write-ahead log afterwards.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydantic import SecretStr

from backend.label_studio.client import LabelStudio
from backend.rounds import sync
from backend.settings import Settings
from backend.storage.store import open_store
from bench.memory import Peak, anonymous
from tests.backend.fake_label_studio import TOKEN, FakeLabelStudio
from tests.backend.served import served


class Large(FakeLabelStudio):
    """A Label Studio with one annotation per task; to list a page it reads only that page."""

    def _listed(self, task: dict[str, Any]) -> dict[str, Any]:
        return {**task, "is_labeled": True, "total_annotations": 1, "cancelled_annotations": 0}

    def _get_whole_tasks(self, request: httpx.Request) -> httpx.Response:
        text = request.url.params["query"]
        [project] = self.projects.values()
        wanted = httpx.Response(200, text=text).json()["selectedItems"]["included"]
        by_task = {i: project.annotations[i + 1] for i in wanted}
        tasks = [{"id": i, "annotations": [found]} for i, found in by_task.items()]
        return httpx.Response(200, json={"total": len(tasks), "tasks": tasks})


def play(labels: int, kilobytes: int, answer: str, pipe: Connection) -> None:
    """Serve a project until killed; send the address."""
    fake = Large()
    fake.setup = lambda _: answer
    number = fake.add_project()
    fake.connect(number)
    numbers = np.random.default_rng(0).integers(0, 256, 250 * kilobytes)  # some 4 bytes each
    region = {
        "id": "a", "from_name": "tag", "to_name": "image", "type": "brushlabels",
        "original_width": 512, "original_height": 512,
        "value": {"format": "rle", "rle": numbers.tolist(), "brushlabels": ["Lung"]},
    }  # fmt: skip
    for _ in range(labels):
        fake.annotate(fake.add_task(number), [region])
    with served(fake) as url:
        pipe.send(url)
        pipe.recv()


@contextmanager
def playing(labels: int, kilobytes: int, answer: str) -> Iterator[str]:
    """Run a Label Studio in another process; yield its address."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=play, args=(labels, kilobytes, answer, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Print a line for each of the two syncs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--kilobytes", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/firstlight.sqlite", busy_ms=10_000)
        store.create()
        with playing(chosen.labels, chosen.kilobytes, store.installation.answer(None)) as url:
            settings = Settings(
                label_studio_url=url, label_studio_api_key=SecretStr(TOKEN), data_dir=Path(folder)
            )
            studio = LabelStudio(settings)
            store.projects.request_refresh(1)
            for name in ("first", "second, nothing changed"):
                store.projects.update(1, full_sync=True, full_synced_at=0.0)
                with store.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                gc.collect()
                idle, started = anonymous("self"), time.monotonic()
                project = store.projects.get(1)
                assert project is not None
                with Peak() as peak:
                    sync.sync(studio, store, project)
                log = Path(folder, "firstlight.sqlite-wal").stat().st_size
                print(
                    f"{name}: {(peak.bytes - idle) / 1e6:.0f} MB above {idle / 1e6:.0f} MB, "
                    f"{time.monotonic() - started:.0f} s, log of {log / 1e6:.1f} MB, "
                    f"{len(store.labels.annotations(1))} labels known"
                )
        store.close()


if __name__ == "__main__":
    main()
