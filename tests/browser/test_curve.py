"""The learning curve and the next round in a browser: both are known without a Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from werkzeug.serving import make_server

from backend.settings import Settings
from backend.storage.store import Store, open_store
from backend.storage.tables import DraftScore
from backend.web.app import create_app
from tests.backend.web.project_page.test_views import add_tasks, annotate, publish, write_round
from tests.servers import running

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(120)]

# Whether something hides a part of a point: the plot's own frame, or the legend above it.
CUT = """() => {
    const legend = document.querySelector("#curve .legend").getBoundingClientRect();
    return [...document.querySelectorAll("#curve .scatterlayer .point")].map((point) =>
        Boolean(point.closest("[clip-path]")) ||
        point.getBoundingClientRect().top < legend.bottom);
}"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(Settings(data_dir=tmp_path).database)
    store.create()
    store.projects.request_refresh(3)
    store.projects.update(3, title="Few", completed=1, options={"retrain_after": 6})
    yield store
    store.close()


@pytest.fixture
def address(store: Store, tmp_path: Path) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path)
    app = create_app(settings, store, lambda project, task: [])
    server = make_server("127.0.0.1", 0, app, threaded=True)
    with running(server):
        yield f"http://127.0.0.1:{server.port}/projects/3"


def test_points_at_both_ends_of_dice_are_drawn_whole(
    address: str, store: Store, page: Page
) -> None:
    add_tasks(store, 1, 2, 3)
    for task, dice in enumerate((1.0, 0.5, 0.0), start=1):
        row = {"task_id": task, "version": "v", "created_at": f"{task}"}
        store.labels.save_draft_score(DraftScore(project_id=3, dice=dice, **row))
    page.goto(address)
    page.locator("#curve .point").first.wait_for()
    assert page.evaluate(CUT) == [False, False, False]


def test_an_open_page_follows_when_the_next_round_is_due(
    address: str, store: Store, tmp_path: Path, page: Page
) -> None:
    add_tasks(store, 1, 2, 3)
    publish(store, 1, 2, 3)
    write_round(Settings(data_dir=tmp_path), [1, 2, 3], reasons=["a", "b", "c"], labels=[])
    page.goto(address)
    due = page.locator("#then")
    expect(due).to_contain_text("0 of 6 new or changed labels; next round at 6 labels")
    annotate(store, 1)
    expect(due).to_contain_text("1 of 6 new or changed labels", timeout=20_000)
    store.projects.enter(3, "train")
    expect(due).to_be_empty(timeout=20_000)
