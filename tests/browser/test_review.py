"""The panel Review in a browser: planted errors with their pictures, and a confirmed label."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Reviewed, Shoot, Watch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(1800),
]


def test_planted_errors_are_shown_with_pictures(
    reviewed: Reviewed, page: Page, shoot: Shoot
) -> None:
    watch = Watch(page)
    page.goto(reviewed.page)
    panel = page.locator("section:has(> #review)")
    for task in reviewed.wrong:
        picture = panel.get_by_alt_text(f"Task {task}:")
        picture.scroll_into_view_if_needed()
        expect(picture).to_be_visible()
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 240
    page.wait_for_load_state("networkidle")
    shoot(panel, "review")
    assert watch.complaints == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_panel_fits_into_its_page(reviewed: Reviewed, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(reviewed.page)
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(fits)


def test_a_label_is_confirmed_without_javascript(reviewed: Reviewed, browser: Browser) -> None:
    wrong = reviewed.wrong[0]
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(reviewed.page)
        page.locator(f"#confirm-{wrong}").click()
        expect(page.locator(f"#confirm-{wrong}")).to_have_count(0)
        expect(page.locator("#actions")).to_contain_text(f"label of task {wrong} right")
