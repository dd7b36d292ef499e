"""Measure the speed-up by a second worker: python -m bench.scale_out [ADDRESS OF A POSTGRESQL].

One worker, and two workers, embed 4,000 phantoms of 64 px with EfficientNet-Lite0. Each worker is a
process on its own core. They use one PostgreSQL (started by the benchmark unless an address is
given) and the tests' Label Studio in memory, served over HTTP. Both sides take turns. The benchmark
prints the seconds from the request for a round until every scan has its embedding, and the ratio of
the medians. With --kill, it kills one of four workers on the way instead, and prints the number of
embeddings and of scans.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from backend.storage import artifacts
from backend.storage.artifacts import Artifacts
from tests import postgresql
from tests.backend.crew import Crew, crew

SCANS = 4_000
TURNS = 3
ENCODER = "efficientnet-lite0"


def main() -> None:
    """Print a line for every run, and the ratio."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    named = [word for word in sys.argv[1:] if word != "--kill"]
    with nullcontext(named[0]) if named else postgresql.running() as server:
        if "--kill" in sys.argv:
            outlived(server)
            return
        for _ in range(TURNS):
            for workers, runs in seconds.items():
                runs.append(embedded(server, workers))
                print(f"{workers} workers: {runs[-1]:.1f} s", flush=True)
    one, two = (statistics.median(runs) for runs in seconds.values())
    print(f"medians: {one:.1f} s, {two:.1f} s; ratio {one / two:.2f}")


def embedded(server: str, workers: int) -> float:
    """Return the seconds that so many workers take."""
    with (
        postgresql.empty_database(server) as url,
        tempfile.TemporaryDirectory() as name,
        crew(url, Path(name)) as workshop,
    ):
        workshop.hire(workers, launcher=["taskset", "-c", "{}"])
        warm_up(workshop)
        number = workshop.project(SCANS, encoder=ENCODER)
        began = time.monotonic()
        while len(workshop.store.embeddings.all(number, ENCODER)) < SCANS:
            assert not workshop.store.projects.known(number).problem
            assert not workshop.ended()
            time.sleep(0.2)
        return time.monotonic() - began


def outlived(server: str) -> None:
    """Kill one of four workers after it has embedded a chunk and before it notes the chunk."""
    with (
        postgresql.empty_database(server) as url,
        tempfile.TemporaryDirectory() as name,
        crew(url, Path(name)) as workshop,
    ):
        workshop.hire(4)
        workshop.fuse.set("after embed_chunk", [0])
        number = workshop.project(SCANS, encoder=ENCODER)
        began = time.monotonic()
        while not workshop.live(number):
            time.sleep(0.2)
        seconds = time.monotonic() - began
        rows = workshop.store.embeddings.all(number, ENCODER).values()
        files = Artifacts(Path(name)).of(number)
        chunks = files.paths(files.names(artifacts.EMBEDDINGS))
        written = sum(len(np.load(chunk)) for chunk in chunks)
        places = len({(row.chunk, row.row) for row in rows})
        print(f"ended: {workshop.ended()}; a queue after {seconds:.0f} s")
        print(f"{SCANS} scans, {len(rows)} rows at {places} places, {written} embeddings in files")


def warm_up(workshop: Crew) -> None:
    """Let every worker load its encoder."""
    number = workshop.project(64 * 8 * len(workshop.workers), encoder=ENCODER)
    while not workshop.live(number):
        time.sleep(0.2)


if __name__ == "__main__":
    main()
