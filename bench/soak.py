"""Check that a worker's memory does not grow over many rounds: python -m bench.soak.

A worker runs in its own process, with 5,000 phantoms of 64 px, the `pixels` encoder and trainings
of 10 steps, beside the tests' Label Studio in memory, served over HTTP. After each round one more
scan is labelled. For every round the benchmark prints the seconds and the worker's peak of
anonymous memory. At the end it prints the mean peak of rounds 41 to 50 divided by the mean peak of
rounds 11 to 20.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend import logs
from backend.commands.quickstart.studio import ROOT
from backend.label_studio import labels
from backend.rounds.models import learner
from backend.settings import Settings, load_settings, prepare_data_dir, tame_threads
from backend.storage.store import Store, open_store
from backend.worker.main import run
from bench.memory import anonymous
from model.phantoms import Phantom, generate
from tests.backend.conftest import answering
from tests.backend.fake_label_studio import CONFIG, TOKEN, FakeLabelStudio, png
from tests.backend.served import served

SCANS = 5_000
ROUNDS = 50
STEPS = 10
SIZE = 64
EARLY, LATE = slice(10, 20), slice(40, 50)
OPTIONS = {
    "image_size": SIZE,
    "cold_start_budget": 2,
    "min_seconds_between_rounds": 0,
    "prelabel_min_dice": 0.0,
    "refine": False,
}


def main() -> None:
    """Print a line for every round, and the ratio."""
    fake = FakeLabelStudio()
    number = fake.add_project()
    fake.connect(number, OPTIONS)
    scans = {}
    for phantom in generate(SCANS, size=SIZE):
        scans[fake.add_task(number, png(phantom.image))] = phantom
    with tempfile.TemporaryDirectory() as name, served(fake) as url, working(url, name) as process:
        store = open_store(Settings(data_dir=Path(name)).database)
        fake.setup = answering(store)
        store.projects.request_refresh(number)
        peaks = []
        for turn in range(ROUNDS + 1):
            began, peak = time.monotonic(), until_done(process, store, number, labelled=turn)
            print(
                f"round {turn}: {time.monotonic() - began:.0f} s, {peak / 1e6:.0f} MB", flush=True
            )
            peaks.append(peak)
            label(fake, number, scans)
            store.projects.request_refresh(number)
    early, late = np.mean(peaks[1:][EARLY]), np.mean(peaks[1:][LATE])
    print(f"rounds 11-20: {early / 1e6:.0f} MB, rounds 41-50: {late / 1e6:.0f} MB")
    print(f"ratio: {late / early:.3f}")


def label(fake: FakeLabelStudio, number: int, scans: dict[int, Phantom]) -> None:
    """Submit the truth of the first scan in the queue."""
    first = fake.served(number)[0]
    fake.annotate(first, labels.regions(scans[first].mask, labels.parse(CONFIG), scores=[1.0]))


def until_done(
    process: subprocess.Popen[bytes], store: Store, number: int, *, labelled: int
) -> int:
    """Wait for the queue made from so many labels; return the worker's peak of memory."""
    peak = 0
    while True:
        assert process.poll() is None, "the worker ended"
        peak = max(peak, anonymous(process.pid))
        project = store.projects.known(number)
        assert not project.problem, project.problem
        live = store.publications.get(number, project.live_version)
        if live and live.labels == labelled and project.requested == project.completed:
            return peak
        time.sleep(0.1)


@contextmanager
def working(url: str, folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running worker with short trainings, in a folder."""
    env = os.environ | {
        "LABEL_STUDIO_URL": url,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "DATA_DIR": folder,
        "ENCODER": "pixels",
        "RECONCILE_SECONDS": "5",
        "LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "bench.soak", "worker"]
    process = subprocess.Popen(command, env=env, cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not (Path(folder) / "dbos.sqlite").exists():
            assert time.monotonic() < deadline, "the worker does not start"
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait()


def work() -> None:
    """Run the worker like `python -m backend worker`, but with short trainings."""
    tame_threads()
    settings = load_settings()
    logs.configure(settings.log_level)
    prepare_data_dir(settings)
    long = learner.train_config
    vars(learner)["train_config"] = lambda *given: replace(long(*given), steps=STEPS)
    run(settings)


if __name__ == "__main__":
    work() if sys.argv[1:] == ["worker"] else main()
