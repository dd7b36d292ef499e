"""What an admin meets: other kinds of project, access, broken scans, and a worker that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from backend.commands import connection
from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from backend.errors import ServerError
from backend.label_studio import client
from backend.label_studio.credentials import entry_credentials
from backend.settings import Settings
from demo import scans
from demo.annotator import Annotator
from demo.scans import Scan
from tests.label_studio.conftest import OPTIONS, Lab
from tests.label_studio.proxy import Stub

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

ENV = {"RECONCILE_SECONDS": "5", "ENCODER": "pixels"}
TOKENS: dict[str, str] = {}  # personal access tokens by the address of their Label Studio


def until(condition: Callable[[], bool], told: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {told()}"
        time.sleep(0.3)


def connected(
    annotator: Annotator, backend: Backend, pool: list[Scan], labels: list[str], title: str
) -> Lab:
    project = annotator.create_project(title, labels)
    found = annotator.import_scans(project, pool)
    backend.connect(project, OPTIONS)
    return Lab(annotator, backend, project, dict(found))


def test_a_broken_scan_is_named_and_comes_last_and_the_rest_is_served(
    annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nthis is no image")
    pool = [*scans.phantoms(6, tmp_path), Scan("broken.png", broken, None)]
    lab = connected(annotator, backend, pool, ["Object"], "one is broken")
    [unreadable] = lab.settle(labels=0)["unreadable"]
    assert lab.scans[unreadable["task"]].name == "broken.png"
    assert lab.queue()[-1] == unreadable["task"]
    assert len(lab.queue()) == 7


def test_with_two_labels_the_one_that_nobody_drew_is_not_invented(
    annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    lab = connected(annotator, backend, scans.phantoms(8, tmp_path), ["A", "B"], "two labels")
    lab.settle(labels=0)
    for _ in range(4):
        task = annotator.next_task(lab.project)
        assert task is not None
        mask = lab.scans[task["id"]].mask
        assert mask is not None
        annotator.submit(task, mask, label="A")
    page = lab.settle(labels=4)
    predictions = annotator.predictions(lab.project, page["live_version"])
    assert {r["value"]["brushlabels"][0] for p in predictions for r in p["result"]} == {"A"}


def test_an_interface_that_cannot_be_served_is_explained_where_a_person_looks(
    annotator: Annotator, backend: Backend
) -> None:
    project = annotator.create_project("text", ["Object"])
    xml = '<View><Text name="t" value="$text"/></View>'
    annotator.call("PATCH", f"/api/projects/{project}/", json={"label_config": xml})
    with pytest.raises(ServerError, match="Image"):
        backend.connect(project)
    body = {"project": f"{project}.1", "schema": xml, "extra_params": None}
    answer = httpx.post(f"{backend.url}/setup", json=body, timeout=10)
    assert answer.status_code == 200
    assert "Image" in " ".join(answer.json()["problems"])


def test_when_every_scan_is_labelled_it_says_so_and_training_ends(
    annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    lab = connected(annotator, backend, scans.phantoms(3, tmp_path), ["Object"], "small")
    lab.settle(labels=0)
    for _ in range(3):
        lab.label_next()
    assert annotator.next_task(lab.project) is None
    until(lambda: bool(lab.page()["complete"]), lab.page)
    until(lambda: lab.page()["wanted"] == lab.page()["done"], lab.page)
    assert "Every scan is labelled" in httpx.get(backend.page(lab.project), timeout=10).text
    assert lab.page()["step"] is None


def test_new_scans_join_the_queue_without_any_webhook(
    annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    lab = connected(annotator, backend, scans.phantoms(4, tmp_path), ["Object"], "grows")
    lab.settle(labels=0)
    for hook in annotator.call("GET", "/api/webhooks/", params={"project": lab.project}):
        annotator.call("DELETE", f"/api/webhooks/{hook['id']}/")
    more = annotator.import_scans(lab.project, scans.phantoms(2, tmp_path / "more", seed=9))
    until(lambda: set(more) <= set(lab.queue()), lab.page)


@pytest.mark.soak
def test_a_worker_killed_in_mid_training_ends_its_round_after_the_restart(
    annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    lab = connected(annotator, backend, scans.phantoms(10, tmp_path), ["Object"], "killed")
    lab.settle(labels=0)
    for _ in range(4):
        lab.label_next()
    until(lambda: lab.page()["step"] == "train", lab.page)
    os.kill(worker_of(backend), signal.SIGKILL)
    assert lab.settle(labels=4)["labels_used"] == 4
    found = annotator.call("GET", "/api/predictions/", params={"project": lab.project})
    copies = Counter((one["task"], one["model_version"]) for one in found)
    assert set(copies.values()) == {1}, "no version has two predictions on one task"
    assert len(lab.queue()) == 6


def test_a_label_studio_that_blocks_private_addresses_is_explained(tmp_path: Path) -> None:
    env = {"ML_BLOCK_LOCAL_IP": "true", "SSRF_PROTECTION_ENABLED": "true"}
    with (
        LabelStudio(tmp_path / "studio", env=env) as studio,
        Annotator(studio.url, studio.token) as person,
    ):
        never_called = Backend(studio.url, studio.token, tmp_path / "data", env=ENV)
        project = person.create_project("blocked", ["Object"])
        with pytest.raises(ServerError, match="SSRF_PROTECTION_ENABLED=false"):
            never_called.connect(project)


class Held(Stub):
    """A backend that answers a change without options only after two calls with the awaited ones.

    Label Studio asks it before it writes an entry and once more after that.
    """

    def __init__(self, awaited: dict[str, int]) -> None:
        super().__init__()
        self.holds, self._awaited, self._asked = threading.Event(), awaited, threading.Semaphore(0)

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> httpx.Response:
        options = json.loads(body)["extra_params"] if path.endswith("/setup") else {}
        if options == self._awaited:
            self._asked.release()
        elif options is None and not self.holds.is_set():
            self.holds.set()
            assert all(self._asked.acquire(timeout=60) for _ in range(2))
        return httpx.Response(200, json={"status": "UP", "model_version": "cold-start r1"})


def test_options_survive_a_change_of_the_entry_that_began_before(
    studio: LabelStudio, annotator: Annotator
) -> None:
    with ExitStack() as opened:
        held = opened.enter_context(Held({"seed": 2}))
        settings = Settings(
            label_studio_url=studio.url,
            label_studio_api_key=SecretStr(studio.token),
            backend_url=held.url,
        )
        project = annotator.create_project("two changes", ["Object"])
        calls = opened.enter_context(closing(client.LabelStudio(settings)))
        connection.connect(settings, calls, project, '{"seed": 1}')
        [entry] = calls.entries(project)
        switch = threading.Thread(
            target=calls.rename, args=(entry, "cold-start r2", entry_credentials(settings))
        )
        switch.start()
        assert held.holds.wait(60)
        connection.connect(settings, calls, project, '{"seed": 2}')
        switch.join()
        [entry] = calls.entries(project)
        assert entry["extra_params"] == {"seed": 2}


def worker_of(backend: Backend) -> int:
    """The process id of the worker that serves this backend's data directory."""
    command = ["pgrep", "-f", "backend worker"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    mine = f"DATA_DIR={backend.data}".encode()
    [worker] = [p for p in found if mine in Path(f"/proc/{p}/environ").read_bytes().split(b"\0")]
    return int(worker)


def personal_access_token(studio: LabelStudio) -> str:
    """Log in as the page does, and make a token; a user may have but one."""
    if studio.url not in TOKENS:
        TOKENS[studio.url] = _new_token(studio)
    return TOKENS[studio.url]


def _new_token(studio: LabelStudio) -> str:
    with httpx.Client(base_url=studio.url, timeout=30) as browser:
        browser.get("/user/login/")
        form = {
            "email": studio.email,
            "password": studio.password,
            "csrfmiddlewaretoken": browser.cookies["csrftoken"],
        }
        browser.post("/user/login/", data=form, headers={"Referer": studio.url})
        headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": studio.url}
        answer = browser.post("/api/token/", json={}, headers=headers).raise_for_status()
        return str(answer.json()["token"])
