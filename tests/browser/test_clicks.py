"""Clicks as people make them: a draft, a click inside it, the suggestion, Accept, Submit."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from bench.clicks import next_click
from demo import scans
from demo.annotator import Annotator, drawn
from model import clicks
from tests.browser.conftest import Shoot
from tests.browser.test_annotating import label_all, press_submit
from tests.label_studio.conftest import OPTIONS, Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(900),
]

ASKED = re.compile(r"/api/ml/\d+/interactive-annotating")


@pytest.fixture(scope="module")
def clickable(
    annotator: Annotator, backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> Lab:
    """A project with smart tags, and drafts of a model with a few labels."""
    project = annotator.create_project("Clicked phantoms", ["Object"])
    folder = tmp_path_factory.mktemp("clicked")
    pool = annotator.import_scans(project, scans.phantoms(30, folder))
    backend.connect(project, OPTIONS, clicks=True)
    found = Lab(annotator, backend, project, dict(pool))
    found.settle(labels=0)
    while len(found.submitted) < 8:
        found.label_next()
    found.settle(labels=8)
    return found


def test_an_accepted_click_replaces_the_draft_by_a_better_mask_of_the_same_region(
    clickable: Lab, studio: LabelStudio, owner: BrowserContext, shoot: Shoot
) -> None:
    page = owner.new_page()
    task = label_all(page, studio.url, clickable.project)
    version = str(clickable.page()["live_version"])
    predictions = clickable.annotator.predictions(clickable.project, version)
    [draft] = [one["result"] for one in predictions if one["task"] == task]
    before, truth = drawn(draft), clickable.scans[task].mask
    assert before is not None, "the first scan of the queue has a draft"
    assert truth is not None
    wrong = next_click(before, truth)
    assert wrong is not None
    choose(page, "Object")
    answer = click(page, wrong, truth.shape)
    assert [region["id"] for region in answer] == [draft[0]["id"]] == ["Object-0"]
    page.wait_for_timeout(1000)
    shoot(page, "clicks-suggestion")
    page.get_by_test_id("bottombar-accept-suggestions-button").click()
    stored = press_submit(page)["result"]
    assert [region["id"] for region in stored] == ["Object-0"]
    after = drawn(stored)
    assert after is not None
    assert (after != truth).sum() < (before != truth).sum()


def choose(page: Page, label: str) -> None:
    """Switch the smart tools on, and take the one for clicks."""
    page.get_by_text("Auto-Annotation").click()
    page.get_by_text(label, exact=True).first.click()
    page.keyboard.press("m")


def click(page: Page, where: clicks.Click, shape: tuple[int, ...]) -> list[dict[str, object]]:
    """Click a pixel of the scan, whatever mask lies there; return the regions of the answer."""
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    x = box["x"] + (where.column + 0.5) / shape[1] * box["width"]
    y = box["y"] + (where.row + 0.5) / shape[0] * box["height"]
    with page.expect_response(ASKED) as answer:
        page.keyboard.down("Control")
        if not where.positive:
            page.keyboard.down("Alt")
        page.mouse.click(x, y)
        page.keyboard.up("Alt")
        page.keyboard.up("Control")
    return list(answer.value.json()["data"]["result"])
