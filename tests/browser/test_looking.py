"""What an open page shows of what changes meanwhile. No Label Studio: a page reads our store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect
from werkzeug.serving import make_server

from backend.settings import Settings
from backend.storage.store import Store, open_store
from backend.web.app import create_app
from tests.backend.web.project_page.test_views import add_tasks, publish_often, record_rounds
from tests.chromium import ELSEWHERE
from tests.servers import running

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(120)]

SILENT = "The backend does not answer"
NO_MAP = "The map could not be loaded"


@dataclass
class Served:
    """A project of three scans and three versions, and where its page is."""

    store: Store
    port: int

    def page(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/projects/3"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    settings = Settings(data_dir=tmp_path, backend_url=f"http://{ELSEWHERE}:9090")
    store = open_store(settings.database)
    store.create()
    store.projects.request_refresh(3)
    store.projects.update(3, title="Liver CT", completed=1)
    record_rounds(store, settings)
    app = create_app(settings, store, lambda project, task: [])
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with running(server):
        yield Served(store, server.port)
    store.close()


def open_page(page: Page, served: Served) -> None:
    page.goto(served.page())
    page.locator("#map[data-drawn='3']").wait_for()


def look(page: Page) -> None:
    """Let the page look now instead of in a few seconds."""
    page.evaluate("keepLooking()")


def test_what_changed_before_the_first_look_is_shown(served: Served, page: Page) -> None:
    def change(route: Route) -> None:
        """Between the page and whatever its script asks for."""
        served.store.projects.update(3, problem="The token was refused.")
        add_tasks(served.store, 4)
        route.continue_()

    page.route("**/page.js*", change)
    page.goto(served.page())
    expect(page.locator("#troubles")).to_contain_text("The token was refused.")
    expect(page.locator("#facts")).to_contain_text("of 4 scans")
    expect(page.locator("#map")).to_have_attribute("data-drawn", "4")


def test_a_page_that_could_not_be_had_is_asked_for_again(served: Served, page: Page) -> None:
    open_page(page, served)
    page.route(served.page(), lambda route: refuse(route, "text/html"))
    served.store.projects.update(3, problem="The token was refused.")
    look(page)
    expect(page.locator("#now")).to_contain_text(SILENT)
    page.unroute(served.page())
    look(page)
    expect(page.locator("#troubles")).to_contain_text("The token was refused.")
    expect(page.locator("#now")).to_have_text("idle.")


def refuse(route: Route, kind: str) -> None:
    """Answer 503 to those who ask for this kind."""
    if route.request.headers["accept"] == kind:
        route.fulfill(status=503, content_type="application/json", body='{"error": "busy"}')
    else:
        route.continue_()


def test_a_map_that_could_not_be_had_says_so_itself_and_is_tried_again(
    served: Served, page: Page
) -> None:
    open_page(page, served)
    words = page.locator("#map-note").inner_text()
    page.route("**/map.json", lambda route: refuse(route, "application/json"))
    add_tasks(served.store, 4)
    look(page)
    expect(page.locator("#map-note")).to_contain_text(NO_MAP)
    expect(page.locator("#facts")).to_contain_text("of 4 scans")
    expect(page.locator("#now")).to_have_text("idle.")
    page.unroute("**/map.json")
    look(page)
    expect(page.locator("#map")).to_have_attribute("data-drawn", "4")
    expect(page.locator("#map-note")).to_have_text(words)


def test_a_map_without_a_scan_says_when_it_comes(served: Served, page: Page) -> None:
    served.store.projects.request_refresh(4)
    page.goto(served.page().replace("/3", "/4"))
    expect(page.locator("#map-note")).to_contain_text("appears when the first round")


def test_a_list_that_somebody_opened_stays_open(served: Served, page: Page) -> None:
    served.store.scans.update(3, 1, problem="The file is no picture.")
    open_page(page, served)
    page.locator("#unreadable summary").click()
    expect(page.locator("#unreadable li")).to_be_visible()
    served.store.scans.update(3, 2, problem="The file is no picture either.")
    look(page)
    expect(page.locator("#unreadable li")).to_have_count(2)
    expect(page.locator("#unreadable li").last).to_be_visible()


def test_how_fresh_the_page_is_stays_true_without_the_page_being_swapped(
    served: Served, page: Page
) -> None:
    served.store.projects.request_refresh(3)
    open_page(page, served)
    expect(page.locator("#freshness")).to_contain_text("1 change in Label Studio still")
    swaps: list[str] = []
    page.on(
        "request",
        lambda one: swaps.append(one.url) if one.headers["accept"] == "text/html" else None,
    )
    served.store.projects.update(3, completed=served.store.projects.known(3).requested)
    look(page)
    expect(page.locator("#freshness")).to_contain_text("has been read")
    assert not swaps


def test_whoever_lists_every_version_goes_on_doing_so(served: Served, page: Page) -> None:
    publish_often(served.store, 40)
    open_page(page, served)
    rows = page.locator("#versions tbody tr")
    expect(rows).to_have_count(30)
    page.get_by_role("link", name="List all of them").click()
    expect(rows).to_have_count(43)
    served.store.projects.update(3, problem="The token was refused.")
    look(page)
    expect(page.locator("#troubles")).to_contain_text("The token was refused.")
    expect(rows).to_have_count(43)


@pytest.mark.parametrize("host", ["127.0.0.1", ELSEWHERE])
def test_the_buttons_work_by_whatever_name_of_ours_the_page_was_opened(
    served: Served, page: Page, host: str
) -> None:
    page.goto(served.page(host))
    page.get_by_role("button", name="Go back to v1").click()
    expect(page.locator("#troubles")).to_contain_text("Pinned to v1")
    page.get_by_role("button", name="Train again").click()
    expect(page.locator("#troubles")).not_to_contain_text("Pinned")
    assert served.store.publications.pinned(3) == ""
