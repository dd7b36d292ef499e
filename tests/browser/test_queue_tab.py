"""The tab of the Data Manager that Firstlight makes shows the queue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from backend.label_studio.queue_tab import TITLE
from demo import scans
from demo.annotator import Annotator
from tests.browser.conftest import Shoot
from tests.label_studio.conftest import OPTIONS, Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(900),
]


@pytest.fixture
def fresh(annotator: Annotator, backend: Backend, tmp_path: Path) -> Lab:
    """A project before its first label."""
    project = annotator.create_project("Chest phantoms", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(20, tmp_path))
    backend.connect(project, OPTIONS)
    found = Lab(annotator, backend, project, dict(pool))
    found.settle(labels=0)
    return found


def test_the_tab_lists_the_scans_as_they_will_come(
    fresh: Lab, studio: LabelStudio, owner: BrowserContext, shoot: Shoot
) -> None:
    page = owner.new_page()
    page.goto(f"{studio.url}/projects/{fresh.project}/data")
    page.get_by_text(TITLE, exact=True).click()
    queue = fresh.queue()
    page.get_by_role("checkbox", name=f"Select Task {queue[0]}", exact=True).wait_for()
    page.wait_for_load_state("networkidle")
    names = page.get_by_role("checkbox", name=re.compile("^Select Task ")).evaluate_all(
        "(boxes) => boxes.map((box) => box.getAttribute('aria-label'))"
    )
    listed = [int(name.split()[-1]) for name in names]
    assert len(listed) >= 5
    assert listed == queue[: len(listed)]
    page.mouse.move(5, 5)
    shoot(page, "queue-tab")
