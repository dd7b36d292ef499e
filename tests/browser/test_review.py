"""The panel Review in a browser: planted errors with their pictures, and a confirmed label."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.commands.quickstart.service import Backend
from demo import scans
from demo.annotator import Annotator
from tests.browser.conftest import Shoot, Watch
from tests.label_studio.conftest import Lab
from tests.label_studio.test_review import REVIEWED, SCANS, plant

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def lab(
    annotator: Annotator, backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lab, list[int]]:
    """A reviewed project, and the tasks of its wrong labels."""
    project = annotator.create_project("Chest phantoms", ["Object"])
    pool = scans.phantoms(SCANS, tmp_path_factory.mktemp("phantoms"))
    tasks = annotator.import_scans(project, pool)
    backend.connect(project, REVIEWED)
    found = Lab(annotator, backend, project, dict(tasks))
    return found, plant(found)


def test_planted_errors_are_shown_with_pictures(
    lab: tuple[Lab, list[int]], page: Page, shoot: Shoot
) -> None:
    reviewed, wrong = lab
    watch = Watch(page)
    page.goto(reviewed.backend.page(reviewed.project))
    panel = page.locator("section:has(> #review)")
    for task in wrong:
        picture = panel.get_by_alt_text(f"Task {task}:")
        picture.scroll_into_view_if_needed()
        expect(picture).to_be_visible()
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 240
    page.wait_for_load_state("networkidle")
    shoot(panel, "review")
    assert watch.complaints == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_panel_fits_into_its_page(lab: tuple[Lab, list[int]], page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(lab[0].backend.page(lab[0].project))
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(fits)


def test_a_label_is_confirmed_without_javascript(
    lab: tuple[Lab, list[int]], browser: Browser
) -> None:
    reviewed, wrong = lab
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(reviewed.backend.page(reviewed.project))
        page.locator(f"#confirm-{wrong[0]}").click()
        expect(page.locator(f"#confirm-{wrong[0]}")).to_have_count(0)
        expect(page.locator("#actions")).to_contain_text(f"label of task {wrong[0]} right")
