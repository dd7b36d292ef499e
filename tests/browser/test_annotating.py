"""The main job as people see it: Label All Tasks, a draft on the scan, Submit, the next scan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page

from backend.commands.quickstart.studio import LabelStudio
from demo.annotator import drawn
from tests.browser.conftest import Shoot
from tests.label_studio.conftest import Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(900),
]

NEXT = re.compile(r"/api/dm/actions\?.*id=next_task")
COLOURED = 20  # of 255 between channels: scans are grey, drafts are not


def test_a_draft_lies_on_the_scan_and_submit_leads_on_through_the_queue_of_our_page(
    lab: Lab, studio: LabelStudio, owner: BrowserContext, colleague: BrowserContext, shoot: Shoot
) -> None:
    queue = [scan["task"] for scan in lab.page()["next"]]
    page = owner.new_page()
    assert label_all(page, studio.url, lab.project) == queue[0], (
        "the button opens what our page says is next"
    )
    check_draft(page, lab, queue[0])
    page.mouse.move(5, 5)
    shoot(page, "draft")

    with page.expect_response(NEXT) as answer:
        page.get_by_role("button", name="Submit current annotation").click()
    assert answer.value.json()["id"] == queue[1], "the next scan is the next of the queue"
    assert label_all(colleague.new_page(), studio.url, lab.project) != queue[1], (
        "two people get different scans"
    )
    assert lab.settle(labels=13)["labels_used"] == 13, "what was submitted trains the next model"


def label_all(page: Page, address: str, project: int) -> int:
    """Press the button on the project's page; return the task that opens."""
    page.goto(f"{address}/projects/{project}/data")
    with page.expect_response(NEXT) as answer:
        page.get_by_role("button", name=re.compile("^Label All Tasks")).click()
    page.get_by_role("button", name="Submit current annotation").wait_for()
    return int(answer.value.json()["id"])


def press_submit(page: Page) -> dict[str, Any]:
    """Submit the annotation that is open; return it as Label Studio stores it."""
    with page.expect_response(re.compile(r"/api/tasks/\d+/annotations")) as saved:
        page.get_by_role("button", name="Submit current annotation").click()
    return dict(saved.value.json())


def check_draft(page: Page, lab: Lab, task: int) -> None:
    """What is coloured on the scan is the draft; it goes when regions are hidden."""
    version = str(lab.page()["live_version"])
    [stored] = [p for p in lab.annotator.predictions(lab.project, version) if p["task"] == task]
    draft = drawn(stored["result"])
    assert draft is not None, "the first scan of the queue has a draft"
    shown = coloured(page, draft.shape, present=True)
    overlap = (shown & draft).sum() / (shown | draft).sum()
    assert overlap > 0.9, "it is where the model put it"
    page.get_by_role("button", name="Hide all regions").click()
    assert not coloured(page, draft.shape, present=False).any()
    page.get_by_role("button", name="Show all regions").click()
    assert coloured(page, draft.shape, present=True).any()


def coloured(page: Page, shape: Sequence[int], *, present: bool) -> npt.NDArray[np.bool_]:
    """Return which pixels of the shown scan are not grey, once there are some, or none."""
    for _ in range(60):
        found = _coloured(page, shape)
        if found.any() == present:
            break
        page.wait_for_timeout(500)
    return found


def _coloured(page: Page, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    scan = page.locator("canvas").first  # an overlay that covers the image and nothing else
    picture = Image.open(BytesIO(scan.screenshot())).convert("RGB").resize(list(shape[::-1]))
    return np.asarray(np.ptp(np.asarray(picture, np.int16), axis=2) > COLOURED)
