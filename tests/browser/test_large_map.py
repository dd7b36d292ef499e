"""The map of 10,000 scans: no Label Studio, for the page reads what is on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page
from werkzeug.serving import make_server

from backend.settings import Settings
from backend.storage.store import open_store
from backend.web.app import create_app
from tests.backend.web.project_page.test_views import add_tasks, draw_map, publish, write_round
from tests.browser.conftest import Watch
from tests.servers import running

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

SCANS = 10_000


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path)
    store = open_store(settings.database)
    store.create()
    store.projects.request_refresh(3)
    store.projects.update(3, title="Very many", completed=1)
    tasks = list(range(1, SCANS + 1))
    add_tasks(store, *tasks)
    publish(store, *tasks[:1000])
    write_round(settings, tasks, reasons=[f"reason of {task}" for task in tasks])
    draw_map(store, settings, tasks, [])
    app = create_app(settings, store, lambda project, task: [])
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with running(server):
        yield f"http://127.0.0.1:{server.port}/projects/3"
    store.close()


def test_ten_thousand_scans_are_drawn_by_webgl(address: str, page: Page) -> None:
    watch, sizes = Watch(page), []
    page.on("requestfinished", lambda one: sizes.append(one.sizes()["responseBodySize"]))
    started = time.perf_counter()
    page.goto(address)
    page.locator("#map[data-drawn]").wait_for()
    seconds = time.perf_counter() - started
    map_data = page.evaluate("document.getElementById('map').data")
    assert {one["type"] for one in map_data} == {"scattergl"}
    assert sum(len(one["customdata"]) for one in map_data) == SCANS
    # No pictures are kept here: their absence is all that the browser may complain of.
    assert not [one for one in watch.complaints if "404" not in one]
    print(f"{SCANS} scans: {sum(sizes) / 1e6:.2f} MB, {seconds:.1f} s until drawn")  # noqa: T201
