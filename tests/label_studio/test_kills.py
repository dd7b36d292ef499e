"""SIGKILL of the worker, of the web process and of both, anywhere in a round, on the real thing.

Whatever was killed is started again, as the supervisor would; nothing else is done, and the round
has to end by itself. Meanwhile a thread looks at what Label Studio serves.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from backend.commands.quickstart.process import Process
from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import ROOT, LabelStudio
from backend.storage.store import Store, open_store
from backend.storage.tables import Publication
from demo import scans
from demo.annotator import Annotator
from tests.forked import Forked
from tests.label_studio import fuse
from tests.label_studio.conftest import OPTIONS, Lab
from tests.label_studio.fuse import STEPS, Fuse
from tests.label_studio.test_admin import until

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(180)]

ENV = {"RECONCILE_SECONDS": "1", "ENCODER": "pixels"}
# Trainings last for seconds, so that they can be killed in the middle.
QUICK = OPTIONS | {
    "cold_start_budget": 2,
    "prelabel_after": 2,
    "image_size": 64,
    "max_train_seconds": 4,
}
WORKER = 0  # a process group: that of the process in which the fuse burns
SCANS = 32  # with the most labels, too, a queue is longer than one call of an import
MOST_LABELS = 19  # from 20 on some are held out, and not every label makes another training

BOUNDARIES = [f"{when} {step}" for step in STEPS for when in ("before", "after")]
# Where a round has not come to the end of its training.
UNTRAINED = [*BOUNDARIES[: BOUNDARIES.index("after train")], "in training"]
INSIDE = [
    "in training",
    "weights written",
    "import sent",
    "half imported",
    "all arrived",
    "live here",
    "live there",
]
HALF_THERE = {"import sent", "half imported", "all arrived", "after publish"}
# At the boundaries of steps tests/backend/rounds/test_workflow.py ends a round, with a Label Studio
# of its own; here is what only a killed process and the real one show.
WORKER_MATTERS = [*INSIDE, "after embed_chunk", "after publish", "after finish"]
# It has its part in what is read from the backend entry, and in the switch.
WEB_MATTERS = ["in training", "live here"]
BOTH = ["half imported"]


def points(often: list[str]) -> list[Any]:
    """All points, those left to the longest tier but for some."""
    return [
        pytest.param(point, marks=[] if point in often else [pytest.mark.soak])
        for point in [*BOUNDARIES, *INSIDE]
    ]


class Web(Backend):
    """The web process alone, in a group of its own with what it forks."""

    def start(self, seconds: float = 60) -> Self:
        command = [sys.executable, "-m", "backend", "web"]
        self._process = Process(command, log=self.log, env=self.env, cwd=ROOT)
        until(self._healthy, lambda: self.log, seconds)
        return self

    @property
    def log(self) -> Path:
        return self.data / "backend.log"

    @property
    def env(self) -> dict[str, str]:
        return self._env

    @property
    def group(self) -> int:
        assert self._process
        return self._process._popen.pid

    def killed(self) -> bool:
        """Wait for its end; whether SIGKILL was it."""
        assert self._process
        return self._process.wait(60) == -signal.SIGKILL


class Watch(threading.Thread):
    """Notes every version that Label Studio serves, and how much it holds of it right then."""

    def __init__(self, studio: LabelStudio) -> None:
        super().__init__(daemon=True)
        self._http = httpx.Client(
            base_url=studio.url, headers={"Authorization": f"Token {studio.token}"}, timeout=30
        )
        self._over = threading.Event()
        self.project = 0
        self.served: list[tuple[int, str, int]] = []  # project, version, predictions

    def run(self) -> None:
        served = (0, "")
        while not self._over.wait(0.03):
            now = self.project, self._version(self.project)
            if now != served:
                served = now
                self.served.append((*now, self._count(*now)))

    def end(self) -> None:
        self._over.set()
        self.join()
        self._http.close()

    def _version(self, project: int) -> str:
        found = self._get(f"/api/projects/{project}", include="model_version") if project else {}
        return str(found.get("model_version") or "")

    def _count(self, project: int, version: str) -> int:
        if not version:
            return 0
        found = self._get(f"/api/projects/{project}/model-versions/", extended="true")
        held = {row["model_version"]: int(row["count"]) for row in found["static"]}
        return held.get(version, 0)

    def _get(self, path: str, **params: str) -> dict[str, Any]:
        return dict(self._http.get(path, params=params).raise_for_status().json())


@dataclass
class House:
    """Web process, worker and fuse, and the project that is under way."""

    web: Web
    annotator: Annotator
    watch: Watch
    folder: Path
    lab: Lab
    worker: Forked | None = None
    started: int = 0

    @cached_property
    def store(self) -> Store:
        return open_store(f"sqlite:///{self.web.data / 'firstlight.sqlite'}")

    @cached_property
    def fuse(self) -> Fuse:
        return Fuse(self.web.data / "fuse.json")

    # -- processes ------------------------------------------------------------------------------

    def start_worker(self, quiet: float | None = None) -> None:
        self.started += 1
        self.worker = Forked(fuse.work, self.fuse, quiet, env=self.web.env, log=self.web.log)
        until(lambda: self._worker_started or not self.worker_lives, lambda: self.web.log, 60)
        assert self._worker_started, self.web.log

    @property
    def _worker_started(self) -> bool:
        return self.said("worker started") == self.started

    def kill_worker(self) -> None:
        assert self.worker
        self.worker.kill()
        self.worker.wait(10)

    def worker_killed(self) -> bool:
        """Wait for its end; whether SIGKILL was it."""
        assert self.worker
        return self.worker.wait(60) == -signal.SIGKILL

    @property
    def worker_lives(self) -> bool:
        return self.worker is not None and self.worker.poll() is None

    def request(self, body: dict[str, Any]) -> bool:
        """Send what Label Studio sends, and wait for the answer as shortly; whether one came."""
        try:
            return httpx.post(f"{self.web.url}/webhook", json=body, timeout=1).is_success
        except httpx.TransportError:
            return False

    def said(self, start: str, **fields: object) -> int:
        """How often something was logged so far that starts like this and has these fields."""
        lines = self.web.log.read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return sum(
            line["message"].startswith(start) and fields.items() <= line.items() for line in told
        )

    # -- projects -------------------------------------------------------------------------------

    def open_project(self) -> None:
        """Begin a project, and bring it to its first model."""
        project = self.annotator.create_project("kills", ["Object"])
        pool = scans.phantoms(SCANS, self.folder / "scans")
        found = self.annotator.import_scans(project, pool)
        self.web.connect(project, QUICK)
        self.lab = Lab(self.annotator, self.web, project, dict(found))
        self.watch.project = project
        self.settle()
        self.lab.label_next()
        self.lab.label_next()
        self.settle()

    def change(self, point: str) -> None:
        """Do what a round that comes to this point begins with."""
        if point.endswith("embed_chunk"):
            more = scans.phantoms(1, self.folder / point, seed=self.started)
            self.lab.scans |= self.annotator.import_scans(self.lab.project, more)
        else:
            self.lab.label_next()

    def settle(self) -> None:
        """Wait until every project is idle, and the live queue is that of today's labels."""
        until(self._settled, self.lab.page, 90)

    def _settled(self) -> bool:
        idle = all(p.requested == p.completed and not p.step for p in self.store.projects.all())
        live = self.live
        return idle and live is not None and sorted(live.published) == self.open

    @property
    def live(self) -> Publication | None:
        project = self.store.projects.get(self.lab.project)
        return self.store.publications.get(project.id, project.live_version) if project else None

    @property
    def open(self) -> list[int]:
        return sorted(set(self.lab.scans) - set(self.lab.submitted))

    @property
    def versions(self) -> list[Publication]:
        return self.store.publications.all(self.lab.project)

    @property
    def litter(self) -> list[str]:
        """Publications that nobody needs and that are still there; the one before the live is."""
        old = sorted((v for v in self.versions if v.state == "previous"), key=lambda v: v.live_at)
        left = [v for v in self.versions if v.state == "abandoned"]
        return [version.name for version in [*old[:-1], *left]]

    def predictions(self) -> list[tuple[str, int]]:
        """Publication and task of every prediction that Label Studio holds."""
        params = {"project": self.lab.project}
        found = self.annotator.call("GET", "/api/predictions/", params=params)
        return [(str(one["model_version"]), int(one["task"])) for one in found]

    def held(self) -> Counter[str]:
        """How many predictions Label Studio holds of each version."""
        return Counter(version for version, _ in self.predictions())

    def trainings(self) -> int:
        """How many trainings on all of today's labels have ended."""
        number = len(self.lab.submitted)
        return self.said(f"trained on {number} scans", project=self.lab.project)


@pytest.fixture(scope="module")
def everything(
    studio: LabelStudio, annotator: Annotator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("kills")
    watch = Watch(studio)
    watch.start()
    with Web(studio.url, studio.token, folder / "data", env=ENV) as web:
        house = House(web, annotator, watch, folder, Lab(annotator, web, 0, {}))
        try:
            yield house
        finally:
            if house.worker:
                house.kill_worker()
            watch.end()


@pytest.fixture
def house(everything: House) -> House:
    """Everything runs and is idle, and there is room for some labels."""
    house = everything
    if not house.worker_lives:
        house.start_worker()
    if not house.lab.scans or len(house.lab.submitted) > MOST_LABELS - 3:
        house.open_project()
    house.settle()
    return house


# -- what must hold after every restart -----------------------------------------------------------


def assert_kept(house: House) -> None:
    """The round ended by itself, and every promise was kept on the way."""
    house.settle()
    assert_never_half_live(house)
    assert_served(house)
    assert_each_task_once(house)
    assert not house.lab.page()["problem"]
    assert house.trainings() == 1, "a training was repeated, or left out"
    models = [
        m for m in house.store.publications.models(house.lab.project) if m.labels == labels(house)
    ]
    assert len(models) == 1
    assert all(found.ended_at for found in house.store.rounds.all(house.lab.project))


def labels(house: House) -> int:
    return len(house.lab.submitted)


def assert_served(house: House) -> None:
    """Label Studio serves the live version, of today's labels, and it is whole."""
    live = house.live
    assert live is not None
    assert live.labels == labels(house)
    project = house.annotator.project(house.lab.project)
    [entry] = house.annotator.call("GET", "/api/ml", params={"project": house.lab.project})
    assert project["model_version"] == entry["title"] == live.name
    assert sorted(house.lab.queue()) == house.open


def assert_never_half_live(house: House) -> None:
    """Whenever Label Studio served a version, all of its predictions were there."""
    live = house.live
    assert live is not None
    until(lambda: house.watch.served[-1][:2] == (house.lab.project, live.name), lambda: live.name)
    published = {version.name: len(version.published) for version in house.versions}
    for project, version, number in house.watch.served:
        if project == house.lab.project and version:
            assert number == published.get(version, 0), version


def assert_each_task_once(house: House) -> None:
    """Of every version that was ever live, each task it was published for has one prediction."""
    predictions = house.predictions()
    for version in house.versions:
        if version.live_at and version.state != "removed":
            found = sorted(task for name, task in predictions if name == version.name)
            assert found == sorted(version.published), version.name


# -- the matrix -----------------------------------------------------------------------------------


def test_leftovers_go_in_the_next_idle_time_and_what_is_needed_stays(house: House) -> None:
    house.fuse.set("half imported", [WORKER])
    house.lab.label_next()
    assert house.worker_killed()
    house.start_worker()
    assert_kept(house)
    [left] = [version.name for version in house.versions if version.state == "abandoned"]
    assert house.held()[left] == fuse.CHUNK
    house.kill_worker()
    # Killed as it tidies up, too: Label Studio then serves no version until the next start.
    house.fuse.set("version deleted", [WORKER])
    house.start_worker(quiet=0)
    assert house.worker_killed()
    house.start_worker(quiet=0)
    until(lambda: not house.litter, lambda: house.litter)
    kept = {version.name for version in house.versions if version.state in {"live", "previous"}}
    assert set(house.held()) == kept
    assert len(kept) == 2
    assert left not in kept
    house.settle()
    assert_served(house)
    house.kill_worker()


@pytest.mark.parametrize("point", points(WORKER_MATTERS))
def test_a_round_whose_worker_is_killed_ends_by_itself(house: House, point: str) -> None:
    house.fuse.set(point, [WORKER])
    house.change(point)
    assert house.worker_killed()
    assert house.trainings() == (point not in UNTRAINED or point.endswith("embed_chunk"))
    house.start_worker()
    assert_kept(house)
    newest = max(version.round for version in house.versions)
    attempts = sum(version.round == newest for version in house.versions)
    assert attempts == (2 if point in HALF_THERE else 1)


@pytest.mark.parametrize("point", points(WEB_MATTERS))
def test_a_round_whose_web_process_is_killed_ends_by_itself(house: House, point: str) -> None:
    house.fuse.set(point, [house.web.group])
    house.change(point)
    assert house.web.killed()
    house.web.start()
    assert_kept(house)
    assert house.worker_lives


@pytest.mark.parametrize("point", points(BOTH))
def test_a_round_ends_by_itself_when_both_are_killed_and_hints_met_nobody(
    house: House, point: str
) -> None:
    house.fuse.set(point, [house.web.group, WORKER])
    house.change(point)
    assert house.web.killed()
    assert house.worker_killed()
    house.lab.label_next()
    house.web.start()
    house.start_worker()
    assert_kept(house)


def test_a_web_process_killed_in_a_burst_of_hints_costs_no_label(house: House) -> None:
    request = {"action": "ANNOTATION_CREATED", "project": {"id": house.lab.project}}
    with ThreadPoolExecutor(8) as people:
        requests = [people.submit(house.request, request) for _ in range(200)]
        house.lab.label_next()
        os.killpg(house.web.group, signal.SIGKILL)
        house.lab.label_next()
    assert house.web.killed()
    assert {True, False} == {one.result() for one in requests}
    house.web.start()
    house.lab.label_next()
    assert_kept(house)
    assert house.worker_lives


def test_a_killed_web_process_comes_back_though_a_request_was_under_way(
    studio: LabelStudio, tmp_path: Path
) -> None:
    with Backend(studio.url, studio.token, tmp_path / "data", env=ENV) as backend:
        killed = web_of(backend)
        assert killed
        with slow_request(backend):
            os.kill(killed, signal.SIGKILL)
            until(lambda: came_back(backend, killed), lambda: killed, 30)


@contextmanager
def slow_request(backend: Backend) -> Iterator[None]:
    """A request of which most is still on its way."""
    address = httpx.URL(backend.url)
    with socket.create_connection((address.host, address.port or 80)) as line:
        head = f"POST /webhook HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 1000\r\n\r\n{{"
        line.sendall(head.encode())
        # Taken up once a later one has been answered.
        httpx.get(f"{backend.url}/health", timeout=10).raise_for_status()
        yield


def came_back(backend: Backend, killed: int) -> bool:
    backend.check()  # the supervisor may not give up
    return web_of(backend) not in {None, killed} and backend._healthy()


def web_of(backend: Backend) -> int | None:
    """The process id of the web process that `start` has begun, not of what that has forked."""
    assert backend._process
    command = ["pgrep", "-P", str(backend._process._popen.pid), "-f", "backend web"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return int(found[0]) if found else None
