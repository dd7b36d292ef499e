"""Measure how long webhooks and people wait after a start of the web process: python -m bench.load.

It starts a real Label Studio and the backend on phantoms. Then, once without and once during a
training, it kills the web process and starts it again without warming it up. From the first answer
on, a recorded webhook is sent 50 times a second for a minute, and 20 people open a scan at the same
moment: at 0, 20 and 40 s scans beyond the horizon, whose draft is drawn when they are opened, and
at 50 s scans with a published draft. A webhook's time counts from the moment it was due. A
person's time ends when Label Studio answers with the scan.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import ROOT, LabelStudio
from demo import scans
from demo.annotator import Annotator

RATE = 50  # webhooks a second
SECONDS = 60
PEOPLE = 20
BEYOND_AT, PUBLISHED_AT = (0, 20, 40), 50  # seconds after the first answer
LABELS = 10
# Each queue before the measured queue may have published other scans than its predecessor.
SCANS = LABELS + 2 + 4 * PEOPLE + 2 * len(BEYOND_AT) * PEOPLE
WEBHOOK = ROOT / "tests" / "wire" / "annotation_created.json"
QUICK = {"horizon": PEOPLE, "image_size": 64, "prelabel_min_dice": 0.0}
LONG = QUICK | {"image_size": 448, "max_train_seconds": 300}


@dataclass(frozen=True)
class Visit:
    """A scan that a person opened, and the time it took."""

    seconds: float
    drafted: bool


@dataclass(frozen=True)
class Load:
    """The parameters of one measurement."""

    studio: LabelStudio
    backend: Backend
    event: bytes
    version: str
    published: Sequence[int]  # task ids

    def measure(self, beyond: Sequence[int]) -> tuple[list[float], dict[str, list[Visit]]]:
        """Return the seconds of each webhook, and the scans that people opened, from a start on."""
        restart_web(self.backend)
        groups = [beyond[row * PEOPLE : (row + 1) * PEOPLE] for row in range(len(BEYOND_AT))]
        waves = [("beyond", *wave) for wave in zip(BEYOND_AT, groups, strict=True)]
        waves.append(("published", PUBLISHED_AT, self.published))
        with ThreadPoolExecutor(len(waves)) as pool:
            began = time.perf_counter()
            opened = {
                f"{name}, {at} s": pool.submit(self.open_at_once, tasks, began + at)
                for name, at, tasks in waves
            }
            webhooks = self.send(began)
            return webhooks, {name: wave.result() for name, wave in opened.items()}

    def send(self, began: float) -> list[float]:
        """Return the seconds of each webhook; a refused webhook ends the measurement."""
        # Label Studio opens a connection for every webhook.
        headers = {"Content-Type": "application/json", "Connection": "close"}
        url = f"{self.backend.url}/webhook"
        with plain_client() as client, ThreadPoolExecutor(16) as senders:

            def post(due: float) -> float:
                time.sleep(max(0.0, due - time.perf_counter()))
                client.post(url, content=self.event, headers=headers).raise_for_status()
                return time.perf_counter() - due

            return list(senders.map(post, [began + n / RATE for n in range(RATE * SECONDS)]))

    def open_at_once(self, tasks: Sequence[int], due: float) -> list[Visit]:
        """Let all people open their scan at the same moment; return what they got."""
        headers = {"Authorization": f"Token {self.studio.token}"}
        with plain_client(base_url=self.studio.url, timeout=120, headers=headers) as client:

            def open_one(task: int) -> Visit:
                time.sleep(max(0.0, due - time.perf_counter()))
                answer = client.get(f"/api/tasks/{task}/").raise_for_status().json()
                shown = [p for p in answer["predictions"] if p["model_version"] == self.version]
                return Visit(time.perf_counter() - due, any(one["result"] for one in shown))

            with ThreadPoolExecutor(len(tasks)) as people:
                return list(people.map(open_one, tasks))


def plain_client(**options: Any) -> httpx.Client:
    """Return a client without certificates: reading them takes the sender 0.1 s at each start."""
    return httpx.Client(**{"timeout": 30, "verify": False, "trust_env": False} | options)


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
        # Label Studio asks for no draft if a scan has a prediction of any version.
        beyond = [i for i in pool if i not in {*labelled, *(one["task"] for one in held)}]
        load = Load(studio, backend, webhook(project), version, published)
        opened = len(BEYOND_AT) * PEOPLE
        assert len(beyond) >= 2 * opened, "too many scans were published before: raise SCANS"
        found = {"idle": load.measure(beyond[:opened])}
        backend.connect(project, LONG)
        label(annotator, project, pool, 1)
        while not training(backend):
            time.sleep(0.1)
        found["training"] = load.measure(beyond[opened:])
        assert training(backend), "the training ended before the measurement: raise LONG"
    show(found)


def label(
    annotator: Annotator, project: int, pool: dict[int, scans.Scan], number: int
) -> list[int]:
    """Submit the truth of the first scans of the queue; return their tasks."""
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
    """Return a recorded event with this project's id."""
    body = json.loads(WEBHOOK.read_text())
    body = body.get("body", body)
    body["project"]["id"] = project
    return json.dumps(body).encode()


def training(backend: Backend) -> bool:
    """Return whether the worker trains a network now."""
    text = httpx.get(f"{backend.url}/metrics", timeout=30).text
    [line] = [one for one in text.splitlines() if one.startswith("firstlight_trainings_running ")]
    return float(line.split()[1]) > 0


def restart_web(backend: Backend) -> None:
    """Kill the web process, and return at the first answer of its successor."""
    for process in web_processes(backend):
        os.kill(process, signal.SIGKILL)
    while True:
        try:
            httpx.get(f"{backend.url}/health", timeout=30).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.05)


def web_processes(backend: Backend) -> list[int]:
    """Return the ids of this backend's processes `python -m backend web`."""
    mark = f"DATA_DIR={backend.data}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            ours = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        if ours and command[1:4] == [b"-m", b"backend", b"web"]:
            found.append(int(entry.name))
    return found


def show(measured: dict[str, tuple[list[float], dict[str, list[Visit]]]]) -> None:
    """Print the tables."""
    columns = ("p50 ms", "p99 ms", "worst ms", "over 500")
    print(f"{'webhooks':12}{'number':>10}{''.join(f'{name:>10}' for name in columns)}")
    for name, (webhooks, _) in measured.items():
        p50, p99, worst = 1000 * np.percentile(webhooks, [50, 99, 100])
        late = sum(seconds > 0.5 for seconds in webhooks)
        print(f"{name:12}{len(webhooks):10d}{p50:10.1f}{p99:10.1f}{worst:10.1f}{late:10d}")
    print(f"\n{'opened':28}{'people':>10}{'drafts':>10}{'p50 s':>10}{'worst s':>10}")
    for name, (_, waves) in measured.items():
        for wave, people in waves.items():
            p50, worst = np.percentile([one.seconds for one in people], [50, 100])
            drafts = sum(one.drafted for one in people)
            row = f"{name}, {wave}"
            print(f"{row:28}{len(people):10d}{drafts:10d}{p50:10.2f}{worst:10.2f}")


if __name__ == "__main__":
    main()
