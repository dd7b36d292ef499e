"""A real Label Studio and a real backend, shared by the tests that drive them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from demo import scans
from demo.annotator import Annotator
from demo.scans import Scan

# Small and quick, but every step of a round is the real one.
OPTIONS = {
    "cold_start_budget": 4,
    "prelabel_after": 3,
    "prelabel_min_dice": 0.0,
    "image_size": 32,
    "max_train_seconds": 60,  # a slow machine too takes every step
    "min_seconds_between_rounds": 0,
}


def page_at(address: str, **access: Any) -> dict[str, Any]:
    """Return a project's page. The worker takes a project up some seconds after its connection."""
    unknown = {"live_version": None, "wanted": 1, "done": 0, "complete": False}
    return {**unknown, **httpx.get(address, timeout=30, **access).json()}


@dataclass
class Lab:
    """A project under way, as an annotator and an admin see it."""

    annotator: Annotator
    backend: Backend
    project: int
    scans: dict[int, Scan]
    submitted: dict[int, int] = field(default_factory=dict)  # task id -> annotation id

    def page(self) -> dict[str, Any]:
        """What the project's page says, as JSON."""
        return page_at(f"{self.backend.page(self.project)}?format=json")

    def queue(self) -> list[int]:
        """The live queue as Label Studio holds it: open tasks by ascending score."""
        version = str(self.page()["live_version"])
        found = self.annotator.predictions(self.project, version)
        return [one["task"] for one in sorted(found, key=lambda one: float(one["score"]))]

    def settle(self, labels: int) -> dict[str, Any]:
        """Wait for the queue that takes so many labels into account; return the page."""
        self.backend.wait_for_queue(self.project, labels=labels, seconds=240)
        return self.page()

    def label_next(self) -> int:
        """Submit the truth for the scan that "Label All Tasks" gives; return its task."""
        task = self.annotator.next_task(self.project)
        assert task is not None, "the queue is empty"
        mask = self.scans[task["id"]].mask
        assert mask is not None
        self.submitted[task["id"]] = self.annotator.submit(task, mask)
        return int(task["id"])


def invited(studio: LabelStudio, owner: Annotator, email: str) -> str:
    """Sign a new person up by an invitation of the owner; return the person's token."""
    invitation = owner.call("GET", "/api/invite")["invite_url"]
    with httpx.Client(base_url=studio.url, timeout=30, trust_env=False) as browser:
        browser.get(invitation)
        form = {
            "email": email,
            "password": "a-long-enough-word",
            "csrfmiddlewaretoken": browser.cookies["csrftoken"],
        }
        browser.post(invitation, data=form, headers={"Referer": studio.url})
        answer = browser.get("/api/current-user/token").raise_for_status()
        return str(answer.json()["token"])


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with LabelStudio(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(scope="session")
def backend(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    data = tmp_path_factory.mktemp("backend")
    env = {"RECONCILE_SECONDS": "5", "ENCODER": "pixels"}
    with Backend(studio.url, studio.token, data, env=env) as running:
        yield running


@pytest.fixture(scope="session")
def annotator(studio: LabelStudio) -> Iterator[Annotator]:
    with Annotator(studio.url, studio.token) as person:
        yield person


@pytest.fixture
def lab(annotator: Annotator, backend: Backend, tmp_path: Path) -> Lab:
    """A new project with phantoms, connected; its first queue may still be on the way."""
    project = annotator.create_project("phantoms", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(16, tmp_path / "phantoms"))
    backend.connect(project, OPTIONS)
    return Lab(annotator, backend, project, dict(pool))
