from __future__ import annotations

from typing import Any

import pytest

from backend.commands import checks_project
from backend.commands.connection import connect, disconnect
from backend.label_studio import queue_tab
from backend.label_studio.client import LabelStudio
from backend.settings import Settings
from backend.storage.store import Store
from tests.backend.fake_label_studio import FakeLabelStudio


@pytest.fixture
def fresh(fake: FakeLabelStudio) -> int:
    """A project that nobody connected."""
    return fake.add_project()


def titles(fake: FakeLabelStudio) -> list[str]:
    return [tab["data"]["title"] for tab in fake.tabs.values()]


def ours(fake: FakeLabelStudio) -> dict[str, Any]:
    [data] = [tab["data"] for tab in fake.tabs.values() if tab["data"]["title"] == queue_tab.TITLE]
    return dict(data)


def test_connecting_makes_a_tab_sorted_as_the_queue_that_shows_score_and_version(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    connect(settings, studio, fresh, "")
    tab = ours(fake)
    assert tab["ordering"] == ["tasks:predictions_score"]
    assert tab["filters"]["items"] == []
    for hidden in tab["hiddenColumns"].values():
        assert "tasks:created_at" in hidden
        assert not {f"tasks:{name}" for name in queue_tab.SHOWN} & set(hidden)


def test_where_there_is_no_tab_yet_the_default_one_is_made_and_stands_first(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    connect(settings, studio, fresh, "")
    assert titles(fake) == ["Default", queue_tab.TITLE]


def test_tabs_of_people_stay_as_they_are(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    studio.add_tab(fresh, {"title": "Mine", "ordering": ["-tasks:id"]})
    before = list(fake.tabs.values())
    connect(settings, studio, fresh, "")
    assert list(fake.tabs.values())[:1] == before
    assert titles(fake) == ["Mine", queue_tab.TITLE]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"title": "What to draw next"},
        {"ordering": ["-tasks:id"]},
        {"ordering": []},
        {"filters": {"conjunction": "and", "items": [{"filter": "filter:tasks:id"}]}},
    ],
)
def test_connected_again_the_tab_is_neither_doubled_nor_touched(
    settings: Settings,
    studio: LabelStudio,
    fake: FakeLabelStudio,
    fresh: int,
    change: dict[str, Any],
) -> None:
    connect(settings, studio, fresh, "")
    fake.change_tab(queue_tab.TITLE, **change)
    before = [dict(tab) for tab in fake.tabs.values()]
    connect(settings, studio, fresh, "")
    assert list(fake.tabs.values()) == before


def test_a_tab_that_says_nothing_is_no_hindrance(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, fresh: int
) -> None:
    fake.tabs[99] = {"id": 99, "project": fresh, "data": None}
    connect(settings, studio, fresh, "")
    list(disconnect(settings, studio, store, fresh))
    assert list(fake.tabs) == [99]


def test_a_tab_of_another_project_does_not_count(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, fresh: int
) -> None:
    connect(settings, studio, fresh, "")
    connect(settings, studio, fake.add_project(), "")
    assert titles(fake).count(queue_tab.TITLE) == 2


def test_disconnecting_removes_the_tab_and_says_so_once(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio, store: Store, fresh: int
) -> None:
    connect(settings, studio, fresh, "")
    fake.change_tab(queue_tab.TITLE, columnsWidth={"tasks:id": 80})  # somebody looked at it
    assert "Removed the Data Manager's tab 'Firstlight queue'." in list(
        disconnect(settings, studio, store, fresh)
    )
    assert titles(fake) == ["Default"]
    assert list(disconnect(settings, studio, store, fresh)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": "Mine now"}, []),
        (
            {"ordering": ["-tasks:id"]},
            ["Left the Data Manager's tab 'Firstlight queue' alone: somebody changed it."],
        ),
        (
            {"filters": {"conjunction": "and", "items": [{"filter": "filter:tasks:id"}]}},
            ["Left the Data Manager's tab 'Firstlight queue' alone: somebody changed it."],
        ),
    ],
)
def test_disconnecting_leaves_a_tab_that_somebody_changed(
    settings: Settings,
    studio: LabelStudio,
    fake: FakeLabelStudio,
    fresh: int,
    change: dict[str, Any],
    said: list[str],
) -> None:
    connect(settings, studio, fresh, "")
    fake.change_tab(queue_tab.TITLE, **change)
    assert list(queue_tab.remove(studio, fresh)) == said
    assert len(fake.tabs) == 2


def test_the_doctor_says_how_to_get_a_tab_that_is_gone_and_calls_nothing_wrong(
    settings: Settings, studio: LabelStudio, fresh: int
) -> None:
    finding = checks_project.tab(studio, fresh)
    assert finding.ok
    assert f"connect {fresh}" in finding.fix
    connect(settings, studio, fresh, "")
    assert checks_project.tab(studio, fresh).fix == ""
