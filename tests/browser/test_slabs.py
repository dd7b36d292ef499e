"""A slab as annotators work on it: strokes on two pages, and a click on the draft of one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from backend.label_studio import labels
from bench.clicks import next_click
from demo.annotator import Annotator, drawn
from tests.backend.exchange.export.exported import Array
from tests.backend.imaging.shown import shown_mask
from tests.browser.conftest import Shoot
from tests.browser.test_annotating import label_all, press_submit
from tests.browser.test_clicks import choose, click
from tests.label_studio import thorax
from tests.label_studio.commands import project_titled, run, tasks_of
from tests.label_studio.conftest import OPTIONS
from tests.label_studio.test_slabs import Lab, lungs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(600),
]

SIDE = 256
# Strokes through the lungs, in shares of the picture; the left lung is on its right.
LEFT = [(0.72, y / 100) for y in range(35, 66, 5)]
RIGHT = [(0.28, y / 100) for y in range(35, 66, 5)]
LABELLED, PAGES, CLICKED = 3, 3, 1  # slabs with a label; pages of each; the page with the click


def test_what_is_drawn_on_two_pages_is_stored_on_them(
    studio: LabelStudio,
    annotator: Annotator,
    owner: BrowserContext,
    tmp_path: Path,
    shoot: Shoot,
) -> None:
    source = thorax.save(tmp_path / "source", 1, side=SIDE, slices=15)
    options = ["--labels", "Left lung,Right lung", "--window", "lung", "--slab", "5"]
    run(studio, tmp_path / "data", "import", str(source), "--new", "Chest slabs", *options)
    project = project_titled(annotator, "Chest slabs")
    [task] = [t for t in tasks_of(annotator, project) if t["data"]["slice"] == 7]
    page = owner.new_page()
    page.goto(f"{studio.url}/projects/{project}/data?task={task['id']}")
    page.get_by_role("button", name="Submit current annotation").wait_for()
    page.get_by_text("of 5").wait_for()
    page.wait_for_timeout(2000)

    draw(page, "1", LEFT)
    page.keyboard.press("Control+ArrowRight")
    page.wait_for_timeout(2000)
    page.keyboard.press("Escape")  # else the region of the first page takes the stroke, unseen
    draw(page, "2", RIGHT)
    page.mouse.move(5, 5)
    page.wait_for_timeout(500)
    shoot(page, "slab")
    check(annotator, project, press_submit(page)["result"])


def draw(page: Page, key: str, stroke: list[tuple[float, float]]) -> None:
    """Choose a label by its key and paint a stroke."""
    page.keyboard.press(key)
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points:
        page.mouse.move(*point, steps=4)
    page.mouse.up()
    page.wait_for_timeout(500)


def check(annotator: Annotator, project: int, result: list[dict[str, Any]]) -> None:
    """The first page has the first stroke, the second page the second, the others nothing."""
    config = labels.parse(annotator.project(project)["label_config"])
    labels.check_pages(result, config, 5)
    masks = np.array([labels.masks(result, config, size=(SIDE, SIDE), page=p) for p in range(5)])
    drawn = masks.any(axis=(2, 3))
    assert np.argwhere(drawn).tolist() == [[0, 0], [1, 1]], "page and class of each stroke"
    middle = SIDE // 2
    assert masks[0, 0, middle, round(LEFT[0][0] * SIDE)]
    assert masks[1, 1, middle, round(RIGHT[0][0] * SIDE)]


@pytest.fixture
def clickable(studio: LabelStudio, annotator: Annotator, backend: Backend, tmp_path: Path) -> Lab:
    """A project of slabs with smart tags, and drafts of a model with a few labels."""
    source, data = thorax.save(tmp_path / "source", 3, side=SIDE), tmp_path / "data"
    options = ["--labels", "Lung", "--window", "lung", "--slab", str(PAGES)]
    run(studio, data, "import", str(source), "--new", "Clicked slabs", *options)
    project = project_titled(annotator, "Clicked slabs")
    asked = {**OPTIONS, "group_by": "volume", "retrain_after": LABELLED}
    backend.connect(project, asked, clicks=True)
    found = Lab(annotator, backend, project, data / "imports" / str(project))
    found.settle(labels=0)
    for _ in range(LABELLED):
        found.submit(found.next_task(), *range(PAGES))
    found.settle(labels=LABELLED)
    return found


def test_an_accepted_click_replaces_the_draft_of_its_page_alone(
    clickable: Lab, studio: LabelStudio, owner: BrowserContext, shoot: Shoot
) -> None:
    page = owner.new_page()
    task = label_all(page, studio.url, clickable.project)
    version = str(clickable.page()["live_version"])
    predictions = clickable.annotator.predictions(clickable.project, version)
    [draft] = [by_page(one["result"]) for one in predictions if one["task"] == task]
    assert draft.keys() > {CLICKED}, "other pages have drafts too"
    truth = truths(clickable, task)
    wrong = next_click(draft[CLICKED], truth[CLICKED])
    assert wrong is not None

    page.keyboard.press("Control+ArrowRight")
    page.wait_for_timeout(2000)
    page.keyboard.press("Escape")
    choose(page, "Lung")
    [answer] = click(page, wrong, truth[CLICKED].shape)
    assert (answer["id"], answer["item_index"]) == (f"Lung-{CLICKED}", CLICKED)
    page.wait_for_timeout(1000)
    shoot(page, "clicks-slab")
    page.get_by_test_id("bottombar-accept-suggestions-button").click()

    stored = press_submit(page)["result"]
    assert {one["id"] for one in stored} == {f"Lung-{number}" for number in draft}
    after = by_page(stored)
    for number, mask in draft.items():
        if number != CLICKED:
            np.testing.assert_array_equal(after[number], mask)
    missed = (draft[CLICKED] != truth[CLICKED]).sum()
    assert (after[CLICKED] != truth[CLICKED]).sum() < missed


def by_page(result: list[dict[str, Any]]) -> dict[int, Array]:
    """Return the mask of each page that has a region."""
    masks: dict[int, Array] = {}
    for number in sorted({region["item_index"] for region in result}):
        mask = drawn([region for region in result if region["item_index"] == number])
        assert mask is not None
        masks[number] = mask
    return masks


def truths(lab: Lab, task_id: int) -> list[Array]:
    """Return the lungs on each page of a slab, as Label Studio shows the page."""
    [task] = [one for one in tasks_of(lab.annotator, lab.project) if one["id"] == task_id]
    volume = lab.manifest.volume(task["data"]["volume"])
    assert volume is not None
    plane, mask = volume.plane, lungs(volume)
    return [shown_mask(plane, plane.cut(mask, index)) for index in task["data"]["pages"]]
