"""Measure what a round costs with the size of the pool: python -m bench.round_steps [SCANS ...].

A database and files are made as a worker leaves them that has read so many scans; this process then
calls the parts of a round that look at the whole pool: first those of a cold start, then those of a
round after ten labels with 2,000 scored scans. The first queue is drawn at random, since
`bench.cold_start` measures the choice of the first scans. For each part the benchmark prints its
processor seconds and the process's peak of anonymous memory. Network, images and Label Studio are
left out: a round scores at most 2,000 scans. Other work on the
machine adds up to a third to processor seconds.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from backend.options import ProjectOptions
from backend.rounds.selection import Selector
from backend.settings import Settings
from backend.storage import ledger, records
from backend.storage.artifacts import ProjectFiles
from backend.storage.store import Store, open_store
from backend.storage.tables import Publication
from backend.worker.main import NEW_OBJECTS
from bench.large_pool import LargePool, embed
from bench.memory import Peak
from model import encoders
from tests.backend.fake_label_studio import CONFIG

SCANS = (1_000, 10_000, 100_000)
LABELS = 10
PROJECT = 1
OPTIONS = ProjectOptions(cold_start="random")
Result = TypeVar("Result")


def main() -> None:
    """Print a block for every number of scans."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scans", nargs="*", type=int, default=SCANS)
    for scans in parser.parse_args().scans:
        gc.set_threshold(NEW_OBJECTS)  # as in a worker
        with tempfile.TemporaryDirectory() as name:
            # In another process: the tasks of a million scans take memory that no round needs.
            in_another_process(fill, Path(name), scans)
            print(f"{scans} scans", flush=True)
            store = open_store(Settings(data_dir=Path(name)).database)
            measure(store, ProjectFiles(Settings(data_dir=Path(name)).project_folder(PROJECT)))
            store.close()


def in_another_process(work: Callable[..., None], *given: Any) -> None:
    """Run what makes the pool in a process of its own.

    Raises:
        SystemExit: If that process ended with an error.
    """
    worker = multiprocessing.get_context("spawn").Process(target=work, args=given)
    worker.start()
    worker.join()
    if worker.exitcode:
        raise SystemExit(
            f"The process that makes the pool ended with code {worker.exitcode}, not 0. Nothing "
            "was measured. Its message stands above; if there is none, free memory or ask for "
            "fewer scans."
        )


def fill(folder: Path, scans: int) -> None:
    """Make the database and the files of a project with so many scans that are read."""
    settings = Settings(data_dir=folder)
    store = open_store(settings.database)
    store.create()
    moments = iter(np.arange(scans, dtype=float))
    embed(store, ProjectFiles(settings.project_folder(PROJECT)), LargePool(scans, moments.__next__))
    store.projects.request_refresh(PROJECT)
    store.projects.update(
        PROJECT, label_config=CONFIG, options=OPTIONS.model_dump(), live_version="r1"
    )
    store.close()


def measure(store: Store, files: ProjectFiles) -> None:
    """Print the parts of the first queue, and those of the round after ten labels."""
    head = cold_start(store, files)
    annotate(store, head[:LABELS])
    print(f"  after {LABELS} labels:")
    began = time.process_time()
    next_round(store, files)
    print(f"  together {time.process_time() - began:.1f} s", flush=True)


def cold_start(store: Store, files: ProjectFiles) -> list[int]:
    """Make the first queue; return its head."""
    now = timed("ledger", lambda: ledger.read(store, PROJECT))
    queue = timed("map and first queue", lambda: selector(store, files).rank(now, {}))
    timed("write", lambda: records.write_queue(files, 1, queue))
    head = queue.order[:1000]
    store.publications.save(
        Publication(project_id=PROJECT, name="r1", round=1, attempt=1, published=head)
    )
    return head


def next_round(store: Store, files: ProjectFiles) -> None:
    """Make the queue of a round with a model."""
    now = timed("ledger", lambda: ledger.read(store, PROJECT))
    rounds = selector(store, files)
    timed("plan", lambda: rounds.plan(now))
    timed("clusters, groups", lambda: (rounds.clusters(), now.groups))
    chosen = timed("scans to score", lambda: rounds.to_score(now))
    drawn = np.random.default_rng(0).random(len(chosen)).tolist()
    scores = {task: (value,) for task, value in zip(chosen, drawn, strict=True)}
    queue = timed("rank", lambda: rounds.rank(now, scores, chosen, 2, model="m"))
    timed("write", lambda: records.write_queue(files, 2, queue))
    timed("read the order twice", lambda: [records.read_order(files, 2) for _ in range(2)])


def selector(store: Store, files: ProjectFiles) -> Selector:
    """Return the selector of a new round."""
    return Selector(store, store.projects.known(PROJECT), files, encoders.load("pixels"))


def annotate(store: Store, tasks: list[int]) -> None:
    """Store an annotation of each task, as a sync does."""
    row = {"updated_at": "2027-01-01T00:00:00.000000Z", "created_at": "2027-01-01T00:00:00.000000Z"}
    rest = {"cancelled": False, "ground_truth": False, "result": "[]", **row}
    store.labels.replace(PROJECT, tasks, [{"id": i, "task_id": i, **rest} for i in tasks])
    for task in tasks:
        store.scans.update(PROJECT, task, is_labeled=True)


def timed(part: str, work: Callable[[], Result]) -> Result:
    """Return what a part returns; print its processor seconds and the peak of memory."""
    began = time.process_time()
    with Peak() as peak:
        result = work()
    seconds = time.process_time() - began
    print(f"  {part}: {seconds:.2f} s, {peak.bytes / 1e6:.0f} MB", flush=True)
    return result


if __name__ == "__main__":
    main()
