"""How fast webhooks are answered while a training runs on the same cores: python -m bench.webhooks.

Starts a real Label Studio and the backend on phantoms, lets a training begin, and sends a recorded
webhook 50 times a second for as long as it runs; then as often while the backend is idle, which is
the baseline. A request's time counts from the moment it was due.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from demo import scans
from demo.annotator import Annotator
from demo.backend import Backend
from demo.studio import ROOT, LabelStudio

RATE = 50
LABELS = 10
WEBHOOK = ROOT / "tests" / "wire" / "annotation_created.json"


def main() -> None:
    """Print milliseconds at p50, p99 and worst, while training and while idle, and the ratio."""
    with (
        tempfile.TemporaryDirectory() as name,
        LabelStudio(Path(name) / "label-studio") as studio,
        Backend(studio.url, studio.token, Path(name) / "backend") as backend,
        Annotator(studio.url, studio.token) as annotator,
    ):
        project = annotator.create_project("webhooks", ["Object"])
        pool = annotator.import_scans(project, scans.phantoms(40, Path(name) / "phantoms"))
        backend.connect(project)
        backend.wait_for_queue(project, labels=0)
        for _ in range(LABELS):
            task = annotator.next_task(project)
            assert task is not None
            mask = pool[task["id"]].mask
            assert mask is not None
            annotator.submit(task, mask)
        body = json.loads(WEBHOOK.read_text())
        body = body.get("body", body)
        body["project"]["id"] = project
        while not training(backend):
            time.sleep(0.1)
        busy = send(backend, body, lambda: training(backend))
        backend.wait_for_queue(project, labels=LABELS)
        count = len(busy)
        idle = send(backend, body, lambda: count > 0, most=count)
    show(idle, busy)


def training(backend: Backend) -> bool:
    """Return whether the worker trains a network now."""
    text = httpx.get(f"{backend.url}/metrics", timeout=30).text
    [line] = [one for one in text.splitlines() if one.startswith("firstlight_trainings_running ")]
    return float(line.split()[1]) > 0


def send(
    backend: Backend, body: dict[str, Any], go_on: Callable[[], bool], most: int = 100 * RATE
) -> list[float]:
    """Return the seconds of each request, sent at RATE until `go_on` says no."""
    content = json.dumps(body).encode()
    # Label Studio opens a connection for every webhook.
    headers = {"Content-Type": "application/json", "Connection": "close"}
    times: list[float] = []
    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(16) as senders:

        def post(due: float) -> float:
            time.sleep(max(0.0, due - time.perf_counter()))
            answer = client.post(f"{backend.url}/webhook", content=content, headers=headers)
            answer.raise_for_status()
            return time.perf_counter() - due

        while len(times) < most and go_on():
            began = time.perf_counter()
            times += senders.map(post, [began + number / RATE for number in range(RATE)])
    return times


def show(idle: list[float], busy: list[float]) -> None:
    """Print the table."""
    print(f"{'':10}{'requests':>10}{'p50 ms':>10}{'p99 ms':>10}{'worst ms':>10}")
    for name, times in (("idle", idle), ("training", busy)):
        p50, p99, worst = 1000 * np.percentile(times, [50, 99, 100])
        print(f"{name:10}{len(times):10d}{p50:10.1f}{p99:10.1f}{worst:10.1f}")
    print(f"p99, training to idle: {np.percentile(busy, 99) / np.percentile(idle, 99):.1f}")


if __name__ == "__main__":
    main()
