"""Measure the needs of N scans on one machine: python -m bench.sizing [SCANS ...].

A worker runs in its own process on SQLite, beside the tests' Label Studio in memory, served over
HTTP. Phantoms of 64 px, the `pixels` encoder and trainings of 10 steps keep the time of encoder and
network small, so that the needs of the service itself remain. For each number of scans (by default
1,000, 10,000 and 100,000) the benchmark prints: seconds and the worker's peak of anonymous memory
until the first queue is live; the same for the round after ten labels; the seconds of its steps;
and the megabytes of DATA_DIR by kind of file.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from backend.settings import Settings
from backend.storage.store import open_store
from bench.soak import label, until_done, working
from model.phantoms import Phantom, generate
from tests.backend.conftest import answering
from tests.backend.fake_label_studio import FakeLabelStudio, png
from tests.backend.served import served

SCANS = (1_000, 10_000, 100_000)
SIZE = 64
LABELS = 10
AGE = 3_600  # seconds since the import: a sync reads the changes of the last five minutes again
OPTIONS = {"image_size": SIZE, "min_seconds_between_rounds": 0, "refine": False}


def main() -> None:
    """Print a block for every number of scans."""
    for scans in map(int, sys.argv[1:] or SCANS):
        measure(scans)


def measure(scans: int) -> None:
    """Print the needs of so many scans."""
    moments = count(time.time() - AGE, AGE / 2 / scans)
    fake = FakeLabelStudio(lambda: next(moments))
    number = fake.add_project()
    phantoms: dict[int, Phantom] = {}
    for phantom in generate(scans, size=SIZE):
        phantoms[fake.add_task(number, png(phantom.image))] = phantom
    fake.clock = time.time
    # Connect after all scans exist: otherwise a queue of a part of them is made first.
    fake.connect(number, OPTIONS)
    with tempfile.TemporaryDirectory() as name, served(fake) as url, working(url, name) as process:
        store = open_store(Settings(data_dir=Path(name)).database)
        fake.setup = answering(store)
        for labelled in (0, LABELS):
            for _ in range(labelled):
                label(fake, number, phantoms)
            began = time.monotonic()
            store.projects.request_refresh(number)
            peak = until_done(process, store, number, labelled=labelled)
            seconds = time.monotonic() - began
            print(
                f"{scans} scans, {labelled} labels: {seconds:.0f} s, {peak / 1e6:.0f} MB",
                flush=True,
            )
        print(f"  steps: {store.rounds.all(number)[-1].record.seconds}")
        print(f"  DATA_DIR in MB: {sizes(Path(name))}", flush=True)
        store.close()


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
