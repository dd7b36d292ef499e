"""Measure the needs of N scans on one machine: python -m bench.sizing [options] [SCANS ...].

A worker runs in its own process on SQLite, beside the tests' Label Studio in memory, served over
HTTP. Phantoms of 64 px, the `pixels` encoder and trainings of 10 steps keep the time of encoder and
network small, so that the needs of the service itself remain. For each number of scans (by default
1,000, 10,000 and 100,000) the benchmark prints: seconds, the processor seconds of the worker, the
seconds in which the benchmark's Label Studio made its answers, and the worker's peak of anonymous
memory, until the first queue is live; the same for the round after ten labels; the seconds of its
steps; and the megabytes of DATA_DIR by kind of file.

With --embedded the scans and their embeddings are in the database before the worker starts, as if
it had read them. The first queue then takes a full sync, the map and the selection, and
--cold-start random shortens the selection.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

from backend.settings import Settings
from backend.storage.artifacts import ProjectFiles
from backend.storage.store import Store, open_store
from bench.large_pool import SIZE, LargePool, embed, phantom_of
from bench.memory import processor_seconds
from bench.soak import label, until_done, working
from model.registry import USUAL_COLD_START
from tests.backend.conftest import answering
from tests.backend.served import served

SCANS = (1_000, 10_000, 100_000)
LABELS = 10
AGE = 3_600  # seconds since the import: a sync reads the changes of the last five minutes again
OPTIONS = {"image_size": SIZE, "min_seconds_between_rounds": 0, "refine": False}


def main() -> None:
    """Print a block for every number of scans."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scans", nargs="*", type=int, default=SCANS)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--cold-start", default=USUAL_COLD_START)
    asked = parser.parse_args()
    for scans in asked.scans:
        measure(scans, {**OPTIONS, "cold_start": asked.cold_start}, embedded=asked.embedded)


def measure(scans: int, options: dict[str, object], *, embedded: bool) -> None:
    """Print the needs of so many scans."""
    moments = count(time.time() - AGE, AGE / 2 / scans)
    fake = LargePool(scans, lambda: next(moments))
    fake.clock, number = time.time, fake.number
    # Connect after all scans exist: otherwise a queue of a part of them is made first.
    fake.connect(number, options)
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(data_dir=Path(name))
        store = open_store(settings.database)
        if embedded:
            store.create()
            embed(store, ProjectFiles(settings.project_folder(number)), fake)
        with served(fake) as url, working(url, name) as process:
            fake.setup = answering(store)
            for labelled in (0, LABELS):
                for _ in range(labelled):
                    label(fake, number, {i: phantom_of(i) for i in fake.served(number)[:1]})
                print(f"{scans} scans, {labelled} labels: ", end="")
                make_queue(process, store, fake, labelled)
        print(f"  steps: {store.rounds.all(number)[-1].record.seconds}")
        print(f"  DATA_DIR in MB: {sizes(Path(name))}", flush=True)
        store.close()


def make_queue(
    process: subprocess.Popen[bytes], store: Store, fake: LargePool, labelled: int
) -> None:
    """Wait for the queue made from so many labels, and print what it took."""
    began, answered = time.monotonic(), fake.seconds
    worked = processor_seconds(process.pid)
    store.projects.request_refresh(fake.number)
    peak = until_done(process, store, fake.number, labelled=labelled)
    print(
        f"{time.monotonic() - began:.0f} s, of the worker's processor "
        f"{processor_seconds(process.pid) - worked:.1f} s, of Label Studio "
        f"{fake.seconds - answered:.1f} s; {peak / 1e6:.0f} MB",
        flush=True,
    )


def sizes(folder: Path) -> dict[str, float]:
    """Return the megabytes of a DATA_DIR, by file or kind of file."""
    found: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            parts = path.relative_to(folder).parts
            kind = parts[2] if parts[0] == "projects" and len(parts) > 3 else parts[0]
            found[kind] = found.get(kind, 0.0) + path.stat().st_size / 1e6
    return {kind: round(size, 1) for kind, size in sorted(found.items())}


if __name__ == "__main__":
    main()
