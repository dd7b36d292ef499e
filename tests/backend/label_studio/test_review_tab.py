from __future__ import annotations

from typing import Any

import pytest

from backend.commands.connection import connect, disconnect
from backend.label_studio import queue_tab, review_tab
from backend.label_studio.client import LabelStudio
from backend.rounds.idle import review_list
from backend.settings import Settings
from backend.storage.records import REVIEW, ReviewRecord
from backend.storage.store import Store
from tests.backend.fake_label_studio import FakeLabelStudio


@pytest.fixture
def project(settings: Settings, studio: LabelStudio, fake: FakeLabelStudio) -> int:
    """A connected project with the tab."""
    number = fake.add_project()
    connect(settings, studio, number, "")
    review_tab.ensure(studio, number)
    return number


def titles(fake: FakeLabelStudio) -> list[str]:
    return [tab["data"]["title"] for tab in fake.tabs.values()]


def test_the_tab_stands_last_and_is_made_once(
    studio: LabelStudio, fake: FakeLabelStudio, project: int
) -> None:
    review_tab.ensure(studio, project)
    assert titles(fake) == ["Default", queue_tab.TITLE, review_tab.TITLE]
    data = list(fake.tabs.values())[-1]["data"]
    assert data["ordering"] == ["-tasks:predictions_score"]
    [item] = data["filters"]["items"]
    assert (item["filter"], item["operator"], item["value"]) == (
        "filter:tasks:total_annotations",
        "greater",
        0,
    )
    assert "tasks:predictions_score" not in data["hiddenColumns"]["explore"]


def test_a_disconnection_removes_it(
    settings: Settings, store: Store, studio: LabelStudio, fake: FakeLabelStudio, project: int
) -> None:
    store.studies.save(project, REVIEW, "v", ReviewRecord(tab=True).written())
    said = list(disconnect(settings, studio, store, project))
    assert "Removed the Data Manager's tab 'Firstlight review'." in said
    assert titles(fake) == ["Default"]
    assert not review_list.read(store, project).tab, "a new connection may make it again"


@pytest.mark.parametrize("change", [{"ordering": ["tasks:id"]}, {"filters": {"items": []}}])
def test_a_disconnection_leaves_a_tab_that_somebody_changed(
    studio: LabelStudio, fake: FakeLabelStudio, project: int, change: dict[str, Any]
) -> None:
    fake.change_tab(review_tab.TITLE, **change)
    [said] = review_tab.remove(studio, project)
    assert said.startswith("Left")
    assert review_tab.TITLE in titles(fake)
