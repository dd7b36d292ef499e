"""The project's page in a browser, beside a real Label Studio."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from backend.commands.quickstart.studio import LabelStudio
from tests.browser.conftest import WIDE, Shoot, Watch
from tests.label_studio.conftest import Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.studio,
    pytest.mark.timeout(900),
]

# Where a scan's point is on the screen.
PLACE = """(task) => {
    const map = document.getElementById("map"), box = map.getBoundingClientRect();
    const { xaxis, yaxis } = map._fullLayout, row = points.task.indexOf(task);
    return [box.left + xaxis._offset + xaxis.l2p(points.x[row]),
            box.top + yaxis._offset + yaxis.l2p(points.y[row])];
}"""


def open_page(page: Page, lab: Lab) -> None:
    page.goto(lab.backend.page(lab.project))
    page.locator("#map[data-drawn]").wait_for()


def point_at(page: Page, task: int) -> tuple[float, float]:
    """Move to a scan's point as a person would, not out of nowhere."""
    x, y = page.evaluate(PLACE, task)
    page.mouse.move(x - 30, y)
    page.mouse.move(x, y, steps=4)
    return x, y


def lonely(page: Page, lab: Lab) -> int:
    """Return the waiting scan that lies farthest from any other."""
    found = page.evaluate("points")
    places: list[tuple[float, float]] = list(zip(found["x"], found["y"], strict=True))

    def space(row: int) -> float:
        x, y = places[row]
        others = (place for other, place in enumerate(places) if other != row)
        return min((x - a) ** 2 + (y - b) ** 2 for a, b in others)

    waiting = [row for row, rank in enumerate(found["rank"]) if rank]
    return int(found["task"][max(waiting, key=space)])


def test_every_scan_is_a_point_and_nothing_comes_from_elsewhere(lab: Lab, page: Page) -> None:
    watch = Watch(page)
    open_page(page, lab)
    drawn = page.evaluate("document.getElementById('map').data.flatMap((one) => one.customdata)")
    assert sorted(drawn) == list(range(len(lab.scans))), "one marker a scan"
    expect(page.locator("#map .scatterlayer .point")).to_have_count(len(lab.scans))
    expect(page.locator("#map")).to_contain_text(f"Labelled, trains ({len(lab.submitted)})")
    page.get_by_text("Cluster", exact=True).click()
    expect(page.locator("#map")).to_contain_text("Cluster 0")
    page.wait_for_load_state("networkidle")
    assert watch.hosts == {lab.backend.url}
    assert watch.complaints == []


def test_pointing_at_a_scan_shows_it_with_its_rank_and_reason(
    lab: Lab, page: Page, shoot: Shoot
) -> None:
    open_page(page, lab)
    task = lonely(page, lab)
    point_at(page, task)
    card = page.locator("#card")
    expect(card).to_contain_text(f"Task {task}")
    expect(card).to_contain_text(re.compile(r"position \d+"))
    expect(card).to_contain_text("uncertainty")
    picture = card.locator("img")
    expect(picture).to_have_js_property("complete", value=True)
    assert picture.evaluate("(one) => one.naturalWidth") == 128, "the phantom itself"
    page.wait_for_load_state("networkidle")
    shoot(page, "project")
    page.mouse.move(5, 5)
    expect(card).to_be_hidden()


def test_a_click_on_a_scan_opens_its_task_in_label_studio(
    lab: Lab, studio: LabelStudio, owner: BrowserContext
) -> None:
    page = owner.new_page()
    open_page(page, lab)
    task = lonely(page, lab)
    x, y = point_at(page, task)
    expect(page.locator("#card")).to_be_visible()
    with page.expect_popup() as opened:
        page.mouse.click(x, y)
    labelling = opened.value
    labelling.wait_for_url(f"{studio.url}/projects/{lab.project}/data?*task={task}*")
    labelling.get_by_role("button", name="Submit current annotation").wait_for()


def test_the_queue_does_the_same_for_the_keyboard(
    lab: Lab, studio: LabelStudio, page: Page
) -> None:
    open_page(page, lab)
    first, second = (scan["task"] for scan in lab.page()["next"][:2])
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.task"):
            break
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("data-task", str(first))
    expect(focused).to_have_attribute(
        "href", f"{studio.url}/projects/{lab.project}/data?task={first}"
    )
    expect(page.locator("#ring")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_attribute("data-task", str(second))


@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_telephone_and_a_small_window(
    lab: Lab, browser: Browser, width: int, scheme: str
) -> None:
    size: ViewportSize = {"width": width, "height": 844}
    context = browser.new_context(
        viewport=size, color_scheme="dark" if scheme == "dark" else "light"
    )
    with context:
        page = context.new_page()
        open_page(page, lab)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_go_back_pins_a_version_until_train_again_and_the_page_follows_by_itself(
    lab: Lab, browser: Browser
) -> None:
    with browser.new_context(viewport=WIDE) as context:
        page, onlooker = context.new_page(), context.new_page()
        watch = Watch(onlooker)
        open_page(onlooker, lab)
        open_page(page, lab)
        button = page.get_by_role("button", name=re.compile("^Go back to cold-start"))
        button.click()
        expect(page.locator("#troubles")).to_contain_text("Pinned to cold-start")
        onlooker.bring_to_front()
        expect(onlooker.locator("#troubles")).to_contain_text("Pinned to", timeout=60_000)
        expect(onlooker.locator("#facts")).to_contain_text("cold-start", timeout=180_000)
        expect(onlooker.locator("#versions")).to_contain_text("made while pinned", timeout=60_000)
        page.bring_to_front()
        page.get_by_role("button", name="Train again").click()
        expect(page.locator("#troubles")).not_to_contain_text("Pinned")
        expect(page.locator("#facts")).to_contain_text("attention-unet", timeout=240_000)
        assert watch.complaints == []
        assert watch.hosts == {lab.backend.url}
