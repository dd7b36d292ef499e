"""Debian's Chromium, on a real Label Studio and a real backend with phantoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    ViewportSize,
)

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import ROOT, LabelStudio
from demo import scans
from demo.annotator import Annotator
from tests import chromium
from tests.label_studio.conftest import OPTIONS, Lab, annotator, backend, invited, studio
from tests.label_studio.test_admin import until
from tests.label_studio.test_review import LABELLED, REVIEWED, SCANS, plant

__all__ = ["annotator", "backend", "studio"]  # fixtures of the tests without a browser

WIDE: ViewportSize = {"width": 1280, "height": 900}


Shoot = Callable[[Page | Locator, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="Write the README's pictures anew.")


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Shoot:
    """Write what a page, or a part of it, shows to docs/images, if that was asked for."""
    asked = request.config.getoption("--screenshots", default=False)

    def write(shown: Page | Locator, name: str) -> None:
        if asked:
            shown.screenshot(path=ROOT / "docs" / "images" / f"{name}.png")

    return write


class Watch:
    """What a page asked for and complained of, from its first request on."""

    def __init__(self, page: Page) -> None:
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        page.on("request", lambda request: self._asked(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda line: self.complaints.append(line.text) if line.type == "error" else None,
        )

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob"}:
            self.hosts.add(f"{parts.scheme}://{parts.netloc}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium.running() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A browser of somebody who is signed in nowhere."""
    with browser.new_context(viewport=WIDE) as context:
        yield context.new_page()


@pytest.fixture(scope="module")
def lab(annotator: Annotator, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A project with a trained model, drafts shown, and a queue of what is left."""
    project = annotator.create_project("Chest phantoms", ["Object"])
    folder = tmp_path_factory.mktemp("phantoms")
    pool = annotator.import_scans(project, scans.phantoms(40, folder))
    backend.connect(project, OPTIONS)
    found = Lab(annotator, backend, project, dict(pool))
    found.settle(labels=0)
    for labels in (5, 8, 12):
        while len(found.submitted) < labels:
            found.label_next()
        found.settle(labels=labels)
    return found


LOWER = 6  # pixels


@dataclass
class Reviewed:
    """A reviewed project with planted wrong labels, some scans of which a second person drew."""

    lab: Lab
    wrong: list[int]  # tasks of the planted labels
    twice: list[int]  # tasks with two annotators: the second draws the truth LOWER pixels lower

    @property
    def page(self) -> str:
        return self.lab.backend.page(self.lab.project)


@pytest.fixture(scope="session")
def reviewed(
    studio: LabelStudio,
    annotator: Annotator,
    backend: Backend,
    tmp_path_factory: pytest.TempPathFactory,
) -> Reviewed:
    project = annotator.create_project("Chest phantoms", ["Object"])
    pool = scans.phantoms(SCANS, tmp_path_factory.mktemp("phantoms"))
    tasks = annotator.import_scans(project, pool)
    backend.connect(project, REVIEWED)
    lab = Lab(annotator, backend, project, dict(tasks))
    wrong = plant(lab)
    twice = sorted(tasks)[LABELLED - 3 : LABELLED]
    with Annotator(studio.url, invited(studio, annotator, "dea@agreement.local")) as second:
        for task in twice:
            mask = tasks[task].mask
            assert mask is not None
            second.submit({"id": task, "project": project}, np.roll(mask, LOWER, axis=0))
    until(lambda: bool(lab.page()["agreement"]), lambda: lab.page()["now"])
    return Reviewed(lab, wrong, twice)


def sign_in(page: Page, address: str, email: str, password: str) -> None:
    """Open an address of Label Studio, which shows its login first, and fill in that form."""
    page.goto(address)
    page.locator("input[name=email]").fill(email)
    page.locator("input[name=password]").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/user/login" not in url)


@pytest.fixture
def owner(browser: Browser, studio: LabelStudio) -> Iterator[BrowserContext]:
    """The browser of Label Studio's owner, signed in by the form."""
    with browser.new_context(viewport=WIDE) as context:
        page = context.new_page()
        sign_in(page, f"{studio.url}/user/login/", studio.email, studio.password)
        page.close()
        yield context


@pytest.fixture
def colleague(
    browser: Browser, studio: LabelStudio, annotator: Annotator
) -> Iterator[BrowserContext]:
    """The browser of a second person, who came by an invitation."""
    invitation = annotator.call("GET", "/api/invite")["invite_url"]
    with browser.new_context(viewport=WIDE) as context:
        page = context.new_page()
        page.goto(f"{studio.url}{invitation}")
        page.locator("input[name=email]").fill("colleague@firstlight.local")
        page.locator("input[name=password]").fill("a-long-enough-word")
        page.locator("button[type=submit], input[type=submit]").click()
        page.wait_for_url(lambda url: "/user/signup" not in url)
        page.close()
        yield context
