from __future__ import annotations

import pytest

from backend.rounds.drafts import prelabels
from backend.storage.store import Store
from backend.storage.tables import DraftScore
from tests.backend.conftest import the
from tests.backend.web.test_app import drawing, live


def test_projects_that_show_drafts_come_last_published_first_and_no_others(store: Store) -> None:
    for at, project in enumerate((3, 1, 2)):
        store.clock = lambda at=float(at): at  # type: ignore[misc]
        drawing(store, {}, project_id=project)
    store.projects.request_refresh(4)
    live(store, project_id=4, name="medoids r0001")
    store.projects.update(1, options={"prelabels": False})
    found = list(prelabels.newest_with_drafts(store))
    assert found == [(2, "unet r0001"), (3, "unet r0001")]


@pytest.mark.parametrize(
    ("dice", "shown"),
    [([0.9] * 20 + [0.1] * 5, False), ([0.1] * 20 + [0.9] * 5, True), ([0.1] * 4, True)],
)
def test_the_last_five_drafts_decide(store: Store, dice: list[float], shown: bool) -> None:
    drawing(store, {})
    for row, value in enumerate(dice):
        moment = f"2026-11-23T00:{row:02d}:00Z"
        score = DraftScore(project_id=1, task_id=row, version="v", created_at=moment, dice=value)
        store.labels.save_draft_score(score)
    assert (prelabels.live_with_drafts(store, the(store, 1)) is not None) is shown
