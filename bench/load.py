"""What people and webhooks wait for while a network is trained beside them: python -m bench.load.

Starts a real Label Studio and the backend on phantoms, and lets a training of some minutes begin.
While it runs a recorded webhook is sent 50 times a second for two minutes, and 20 people open a
scan at once: scans whose draft is published, then scans beyond the horizon, whose draft is drawn
when they are opened. The same without a training is the baseline. A webhook's time counts from the
moment it was due.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from demo import scans
from demo.annotator import Annotator
from demo.backend import Backend
from demo.studio import ROOT, LabelStudio

RATE = 50  # webhooks a second
SECONDS = 120
PEOPLE = 20
LABELS = 10
SCANS = LABELS + 2 + 4 * PEOPLE  # some were published before and are not now
WEBHOOK = ROOT / "tests" / "wire" / "annotation_created.json"
QUICK = {"horizon": PEOPLE, "image_size": 64, "prelabel_min_dice": 0.0}
LONG = QUICK | {"image_size": 448, "max_train_seconds": 300}


def main() -> None:
    """Print both tables, idle and while training."""
    with (
        tempfile.TemporaryDirectory() as name,
        LabelStudio(Path(name) / "label-studio") as studio,
        Backend(studio.url, studio.token, Path(name) / "backend") as backend,
        Annotator(studio.url, studio.token) as annotator,
    ):
        project = annotator.create_project("load", ["Object"])
        pool = annotator.import_scans(project, scans.phantoms(SCANS, Path(name) / "phantoms"))
        backend.connect(project, QUICK)
        backend.wait_for_queue(project, labels=0)
        labelled = label(annotator, project, pool, LABELS)
        backend.wait_for_queue(project, labels=LABELS)
        version = str(backend.status(project).live_version)
        held = annotator.call("GET", "/api/predictions/", params={"project": project})
        published = [one["task"] for one in held if one["model_version"] == version]
        # For a scan that has a prediction of any version Label Studio asks for no other.
        beyond = [i for i in pool if i not in {*labelled, *(one["task"] for one in held)}]
        event = webhook(project)
        # The first draft that is drawn brings the network into the web process.
        open_at_once(studio, beyond[:1], version)
        found = {
            "idle": measure(studio, backend, event, version, (published, beyond[1 : PEOPLE + 1]))
        }
        backend.connect(project, LONG)
        label(annotator, project, pool, 1)
        while not training(backend):
            time.sleep(0.1)
        found["training"] = measure(
            studio, backend, event, version, (published, beyond[PEOPLE + 1 :])
        )
        assert training(backend), "the training ended before the measurement: raise LONG"
    show(found)


def label(
    annotator: Annotator, project: int, pool: dict[int, scans.Scan], number: int
) -> list[int]:
    """Submit the truth of so many scans, as the queue gives them; return their tasks."""
    done = []
    for _ in range(number):
        task = annotator.next_task(project)
        assert task is not None
        mask = pool[task["id"]].mask
        assert mask is not None
        annotator.submit(task, mask)
        done.append(int(task["id"]))
    return done


def webhook(project: int) -> bytes:
    """Return a recorded event, of this project."""
    body = json.loads(WEBHOOK.read_text())
    body = body.get("body", body)
    body["project"]["id"] = project
    return json.dumps(body).encode()


def training(backend: Backend) -> bool:
    """Return whether the worker trains a network now."""
    text = httpx.get(f"{backend.url}/metrics", timeout=30).text
    [line] = [one for one in text.splitlines() if one.startswith("firstlight_trainings_running ")]
    return float(line.split()[1]) > 0


def measure(
    studio: LabelStudio,
    backend: Backend,
    event: bytes,
    version: str,
    opened: tuple[Sequence[int], Sequence[int]],
) -> dict[str, Any]:
    """Return the seconds of each webhook, and of each person's scan of both kinds."""
    drafts = {
        name: open_at_once(studio, tasks, version)
        for name, tasks in zip(("published", "beyond"), opened, strict=True)
    }
    return {"webhooks": send(backend, event), **drafts}


def send(backend: Backend, content: bytes) -> list[float]:
    """Return the seconds of each request; one that is refused ends the measurement."""
    # Label Studio opens a connection for every webhook.
    headers = {"Content-Type": "application/json", "Connection": "close"}
    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(16) as senders:

        def post(due: float) -> float:
            time.sleep(max(0.0, due - time.perf_counter()))
            answer = client.post(f"{backend.url}/webhook", content=content, headers=headers)
            answer.raise_for_status()
            return time.perf_counter() - due

        began = time.perf_counter()
        return list(senders.map(post, [began + n / RATE for n in range(RATE * SECONDS)]))


def open_at_once(
    studio: LabelStudio, tasks: Sequence[int], version: str
) -> list[tuple[float, bool]]:
    """Return, of each person, the seconds until a scan is there, and whether with a draft."""
    headers = {"Authorization": f"Token {studio.token}"}
    with httpx.Client(base_url=studio.url, timeout=120, headers=headers) as client:

        def open_one(task: int) -> tuple[float, bool]:
            began = time.perf_counter()
            answer = client.get(f"/api/tasks/{task}/").raise_for_status().json()
            found = [p for p in answer["predictions"] if p["model_version"] == version]
            return time.perf_counter() - began, any(one["result"] for one in found)

        with ThreadPoolExecutor(len(tasks)) as people:
            return list(people.map(open_one, tasks))


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    print(f"webhooks  {'number':>10}{'p50 ms':>10}{'p99 ms':>10}{'worst ms':>10}")
    for name, one in found.items():
        p50, p99, worst = 1000 * np.percentile(one["webhooks"], [50, 99, 100])
        print(f"{name:10}{len(one['webhooks']):10d}{p50:10.1f}{p99:10.1f}{worst:10.1f}")
    for kind in ("published", "beyond"):
        print(f"{kind:10}{'people':>10}{'drafts':>10}{'p50 s':>10}{'worst s':>10}")
        for name, one in found.items():
            p50, worst = np.percentile([seconds for seconds, _ in one[kind]], [50, 100])
            drafts = sum(drawn for _, drawn in one[kind])
            print(f"{name:10}{len(one[kind]):10d}{drafts:10d}{p50:10.2f}{worst:10.2f}")


if __name__ == "__main__":
    main()
