"""A slab as annotators draw it: a stroke on one page, the next page, a stroke there, Submit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page

from backend.commands.quickstart.studio import LabelStudio
from backend.label_studio import labels
from demo.annotator import Annotator
from tests.browser.conftest import Shoot
from tests.label_studio import thorax
from tests.label_studio.commands import project_titled, run, tasks_of

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
    with page.expect_response(re.compile(r"/api/tasks/\d+/annotations")) as saved:
        page.get_by_role("button", name="Submit current annotation").click()
    check(annotator, project, saved.value.json()["result"])


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
