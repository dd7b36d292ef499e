"""An imported volume as annotators see it: a slice to draw on, its neighbours beside."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops
from playwright.sync_api import BrowserContext, Locator, Page

from backend.commands.quickstart.studio import LabelStudio
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

NEXT = ".lsf-pagination__btn_arrow-right:not(.lsf-pagination__btn_arrow-right-double)"


def test_the_neighbours_of_a_slice_stand_beside_it(
    studio: LabelStudio,
    annotator: Annotator,
    owner: BrowserContext,
    tmp_path: Path,
    shoot: Shoot,
) -> None:
    source = thorax.save(tmp_path / "source", 2, side=256, slices=20)
    run(
        studio,
        tmp_path / "data",
        "import",
        str(source),
        "--new",
        "Chest CT",
        "--labels",
        "Lung,Heart",
    )
    project = project_titled(annotator, "Chest CT")
    [task] = [t for t in tasks_of(annotator, project) if t["data"]["slice"] == 9][:1]
    page = owner.new_page()
    page.goto(f"{studio.url}/projects/{project}/data?task={task['id']}")
    page.get_by_role("button", name="Submit current annotation").wait_for()
    page.get_by_text("Slice 9 and its neighbours").wait_for()
    drawn_on, viewer = page.locator("canvas").first, page.get_by_alt_text("image").last
    assert page.get_by_text("of 15").is_visible(), "seven slices on each side"
    first = settled(page, viewer)
    for _ in range(7):
        page.locator(NEXT).click()
    assert ImageChops.difference(first, settled(page, viewer)).getbbox() is not None
    assert drawn_on.is_visible()
    page.mouse.move(5, 5)  # no hint of a button stands in the way
    shoot(page, "volume-slices")


def settled(page: Page, picture: Locator) -> Image.Image:
    """Return what is shown, once it has stopped changing."""
    before = None
    for _ in range(40):
        now = np.asarray(Image.open(BytesIO(picture.screenshot())).convert("L"))
        if before is not None and now.std() > 1 and np.array_equal(before, now):
            break
        before = now
        page.wait_for_timeout(500)
    return Image.fromarray(now)
