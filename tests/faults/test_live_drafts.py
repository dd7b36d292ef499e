"""Live drafts of the real web process, which dies, or whose draft process does."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from backend.label_studio import labels
from backend.settings import Settings
from backend.storage import artifacts
from backend.storage.store import open_store
from backend.storage.tables import Model, Publication
from backend.web.ml_protocol import DEADLINE_SECONDS
from model import phantoms, training
from tests.backend.fake_label_studio import CONFIG
from tests.backend.site import OPTIONS, SIZE, TINY, wait_for
from tests.backend.web.test_server import free_port

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(300),  # a busy machine takes minutes to import torch
]

ROOT = Path(__file__).parents[2]
PROJECT, TASK, HELD = 1, 1, 2


@dataclass
class Images:
    """A server of one picture, which keeps whoever asks for /held.png waiting."""

    address: str
    held: threading.Semaphore


@contextmanager
def images() -> Iterator[Images]:
    file = io.BytesIO()
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(file, "PNG")
    held, go_on = threading.Semaphore(0), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/held.png":
                held.release()
                go_on.wait()
            with suppress(OSError):  # whoever asked may have been killed
                self.send_response(200)
                self.send_header("Content-Length", str(len(file.getvalue())))
                self.end_headers()
                self.wfile.write(file.getvalue())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Images(f"127.0.0.1:{server.server_port}", held)
        finally:
            go_on.set()
            server.shutdown()


@dataclass
class Web:
    """`python -m backend web` on a folder of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def predict(self, task: int) -> list[Any]:
        """Return the regions, which have to come within the deadline."""
        body = {"project": PROJECT, "label_config": CONFIG, "tasks": [{"id": task}]}
        answer = httpx.post(f"{self.url}/predict", json=body, timeout=2 * DEADLINE_SECONDS)
        [result] = answer.raise_for_status().json()["results"]
        regions: list[Any] = result["result"]
        return regions

    @property
    def family(self) -> list[int]:
        """It and all processes that it started, and those that they did."""
        found = [self.process.pid]
        parents = {pid: parent for pid, (parent, _) in processes().items()}
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    @property
    def drawers(self) -> list[int]:
        return [pid for pid in self.family if b"spawn_main" in command(pid)]

    @property
    def servers(self) -> list[int]:
        return [pid for pid in self.family if command(pid).endswith(b"backend\0web\0")]


def processes() -> dict[int, tuple[int, str]]:
    """Return parent and state of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            found[int(path.parent.name)] = (int(parent), state)
    return found


def command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def has_torch(pid: int) -> bool:
    with suppress(OSError):
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    return False


@contextmanager
def web(folder: Path, image_hosts: str = "") -> Iterator[Web]:
    port = free_port()
    env = os.environ | {
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "a-token",
        "DATA_DIR": str(folder),
        "PORT": str(port),
        "IMAGE_HOSTS": image_hosts,
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "web"], cwd=ROOT, env=env, stderr=log
        )
    found = Web(f"http://127.0.0.1:{port}", process)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=9), timeout=60) as client:
            client.get(f"{found.url}/health").raise_for_status()
        yield found
    finally:
        process.terminate()
        process.wait(60)


def settle(folder: Path, tasks: dict[int, str], model: Model | None = None) -> None:
    """Make a project with these tasks, whose live queue is of that model or of a cold start."""
    store = open_store(Settings(data_dir=folder).database)
    store.create()
    store.projects.request_refresh(PROJECT)
    store.projects.update(PROJECT, label_config=CONFIG, options=OPTIONS, completed=1)
    rows = [{"id": task, "url": url} for task, url in tasks.items()]
    store.scans.save(PROJECT, rows)
    if model:
        store.publications.save_model(model)
    key, labelled = (model.key, model.labels) if model else ("", 0)
    store.publications.save(
        Publication(
            project_id=PROJECT, name="r0001", round=1, attempt=1, model_key=key, labels=labelled
        )
    )
    store.publications.go_live(PROJECT, "r0001")
    store.close()


def trained(folder: Path) -> Model:
    """Store a network that finds every pixel."""
    phantom = phantoms.generate(1, size=SIZE)[0]
    fitted = training.fit([phantom.image], [phantom.mask], TINY)
    *_, bias = fitted.network.parameters()
    torch.nn.init.constant_(bias, 100.0)
    path = folder / "projects" / str(PROJECT) / artifacts.weights_name("m")
    path.parent.mkdir(parents=True)
    fitted.save(path)
    classes = list(labels.parse(CONFIG).labels)
    return Model(project_id=PROJECT, key="m", labels=9, created_at=0.0, classes=classes)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, Images]]:
    """A project whose drafts are shown, just started. The last test of this file kills it."""
    folder = tmp_path_factory.mktemp("drawing")
    with images() as pictures:
        names = {TASK: "scan.png", HELD: "held.png"}
        urls = {task: f"http://{pictures.address}/{name}" for task, name in names.items()}
        settle(folder, urls, trained(folder))
        with web(folder, pictures.address) as running:
            yield running, pictures


def test_an_answer_that_needs_no_network_loads_none(tmp_path: Path) -> None:
    settle(tmp_path, {TASK: "/data/upload/1/a.png"})
    with web(tmp_path) as running:
        assert running.predict(TASK) == []
        assert running.predict(99) == []
        event = {"action": "ANNOTATION_CREATED", "project": {"id": PROJECT}}
        for path, body in (("setup", {"project": PROJECT}), ("webhook", event)):
            httpx.post(f"{running.url}/{path}", json=body, timeout=60).raise_for_status()
        for path in ("health", "ready", "versions", "metrics", "projects", f"projects/{PROJECT}"):
            httpx.get(f"{running.url}/{path}", timeout=60).raise_for_status()
        assert not [pid for pid in running.family if has_torch(pid)]
        assert not running.drawers


@pytest.mark.slow
def test_a_network_is_loaded_before_a_draft_is_asked_for_and_not_by_the_web_process(
    drawing: tuple[Web, Images],
) -> None:
    running, _ = drawing
    wait_for(lambda: any(map(has_torch, running.drawers)), 200)
    wait_for(lambda: running.predict(TASK), 100)
    [drawer] = running.drawers
    assert os.getpriority(os.PRIO_PROCESS, drawer) >= 10
    assert [pid for pid in running.family if has_torch(pid)] == [drawer]


@pytest.mark.slow
def test_a_draft_whose_process_is_killed_is_empty_and_the_next_one_is_drawn(
    drawing: tuple[Web, Images],
) -> None:
    running, pictures = drawing
    wait_for(lambda: running.predict(TASK), 200)
    with ThreadPoolExecutor(1) as person:
        answer = person.submit(running.predict, HELD)
        assert pictures.held.acquire(timeout=60)
        for drawer in running.drawers:
            os.kill(drawer, signal.SIGKILL)
        assert answer.result() == []
    wait_for(lambda: running.predict(TASK), 200)


def test_a_web_process_that_is_killed_in_a_draft_leaves_no_process_behind(
    drawing: tuple[Web, Images],
) -> None:
    running, pictures = drawing
    wait_for(lambda: running.predict(TASK), 200)
    with ThreadPoolExecutor(1) as person:
        answer = person.submit(running.predict, HELD)
        assert pictures.held.acquire(timeout=60)
        family = running.family
        for pid in running.servers:
            os.kill(pid, signal.SIGKILL)
        assert isinstance(answer.exception(), httpx.TransportError)
    running.process.wait(60)
    wait_for(
        lambda: {pid for pid, (_, state) in processes().items() if state != "Z"}.isdisjoint(family)
    )
