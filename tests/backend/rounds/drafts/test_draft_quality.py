"""Drafts are judged by what was then submitted, whatever both are drawn with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from backend.label_studio import labels
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.drafts.draft_quality import score_drafts
from backend.rounds.services import Services
from backend.storage import artifacts
from backend.storage.records import QueueRecord, write_queue
from backend.storage.tables import DraftScore, Publication
from backend.web.project_page import status
from tests.backend.conftest import the

TASK = 7
SIZE = (60, 80)
OFFERS = {
    kind: labels.parse(
        f'<View><Image name="i" value="$image"/><{kind} name="t" toName="i"/>'
        '<Labels name="l" toName="i"><Label value="Lung"/></Labels></View>'
    )
    for kind in ("Brush", "Polygon", "Ellipse", "Rectangle")
}
EVERY = (
    '<View><Image name="i" value="$image"/><Labels name="l" toName="i"><Label value="Lung"/>'
    "</Labels>" + "".join(f'<{kind} name="{kind}" toName="i"/>' for kind in OFFERS) + "</View>"
)


def drawn(kind: str, columns: slice) -> list[dict[str, Any]]:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 10:50, columns] = True
    return labels.regions(mask, OFFERS[kind], scores=[1.0], tolerance=0.4)


def judged(services: Services, number: int, draft: list[Any], submitted: list[Any]) -> list[float]:
    store = services.store
    store.projects.update(number, label_config=EVERY)
    when = datetime.fromtimestamp(store.clock(), UTC).isoformat()
    row = {"id": TASK, "url": "/a.png", "group": "", "updated_at": when, "is_labeled": True}
    store.scans.save(number, [row])
    store.scans.update(number, TASK, height=SIZE[0], width=SIZE[1])
    annotation = {
        "id": 1,
        "task_id": TASK,
        "updated_at": when,
        "created_at": when,
        "cancelled": False,
        "ground_truth": False,
        "result": json.dumps(submitted),
        "problem": "",
    }
    store.labels.replace(number, [TASK], [annotation])
    artifacts.write_json(services.folder(number) / "drafts" / "one.json", {str(TASK): draft})
    store.publications.save(
        Publication(project_id=number, name="v", round=1, attempt=1, drafts="one.json", live_at=1.0)
    )
    score_drafts(RoundContext.of(services, LoadedEncoders(services.settings), number))
    return [score.dice for score in store.labels.draft_scores(number)]


@pytest.mark.parametrize("submitted", OFFERS)
@pytest.mark.parametrize("draft", OFFERS)
def test_a_draft_of_any_kind_is_compared_with_a_mask_of_any_kind(
    services: Services, project_id: int, draft: str, submitted: str
) -> None:
    [dice] = judged(
        services, project_id, drawn(draft, slice(10, 50)), drawn(submitted, slice(30, 70))
    )
    # Two of 40 columns that share 20: a half, but for an ellipse, which is no box.
    tolerance = 0.08 if "Ellipse" in {draft, submitted} else 0.002
    assert dice == pytest.approx(0.5, abs=tolerance)


@pytest.mark.parametrize("kind", OFFERS)
def test_a_draft_that_was_submitted_as_it_was_is_perfect(
    services: Services, project_id: int, kind: str
) -> None:
    both = drawn(kind, slice(10, 50))
    assert judged(services, project_id, both, both) == [1.0]


@pytest.mark.parametrize("kind", OFFERS)
def test_an_emptied_draft_is_worth_nothing(services: Services, project_id: int, kind: str) -> None:
    assert judged(services, project_id, drawn(kind, slice(10, 50)), []) == [0.0]


def test_labels_that_nobody_drew_make_no_draft_look_good(
    services: Services, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = "".join(f'<Label value="Rib {number}"/>' for number in range(1, 8))
    many = EVERY.replace('<Label value="Lung"/>', f'<Label value="Lung"/>{others}')
    monkeypatch.setitem(globals(), "EVERY", many)
    beside = drawn("Brush", slice(55, 75)), drawn("Brush", slice(10, 50))
    assert judged(services, project_id, *beside) == [0.0]


def test_what_is_rightly_left_empty_is_perfect(services: Services, project_id: int) -> None:
    assert judged(services, project_id, [], []) == [1.0]


def test_what_the_page_says_of_the_last_drafts_is_kept_with_the_project(
    services: Services, project_id: int
) -> None:
    store, mask = services.store, drawn("Brush", slice(10, 50))
    for number, dice in enumerate((0.0, 0.0, 0.6, 0.7, 0.8), start=20):
        moment = f"2020-01-{number}"  # before the one that is judged now, which is perfect
        earlier = {"task_id": number, "version": "v", "created_at": moment, "dice": dice}
        store.labels.save_draft_score(DraftScore(project_id=project_id, **earlier))
    assert the(store, project_id).draft_dice is None
    judged(services, project_id, mask, mask)
    kept = the(store, project_id).draft_dice
    shown = status.status(store, services.artifacts, project_id)
    assert kept == shown["prequential_dice"] == pytest.approx((0.0 + 0.6 + 0.7 + 0.8 + 1.0) / 5)


def test_a_draft_submitted_unchanged_does_not_flatter_the_others(
    services: Services, project_id: int
) -> None:
    store, mask = services.store, drawn("Brush", slice(10, 50))
    for number, dice in enumerate((0.6, 0.8), start=20):
        earlier = {"task_id": number, "version": "v", "created_at": f"2020-01-{number}"}
        store.labels.save_draft_score(DraftScore(project_id=project_id, dice=dice, **earlier))
    judged(services, project_id, mask, mask)
    kept, shown = the(store, project_id), status.status(store, services.artifacts, project_id)
    assert (shown["drafts_unchanged"], shown["drafts_compared"]) == (1, 3)
    assert kept.unchanged_drafts == pytest.approx(1 / 3)
    assert kept.changed_draft_dice == shown["changed_draft_dice"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("draft", "submitted", "unchanged"),
    [
        (drawn("Brush", slice(10, 50)), drawn("Brush", slice(10, 50)), True),
        (drawn("Brush", slice(10, 50)), drawn("Brush", slice(10, 51)), False),
        (drawn("Brush", slice(10, 50)), [], False),
        ([], drawn("Brush", slice(10, 50)), False),
        ([], [], True),
    ],
)
def test_a_draft_is_unchanged_when_every_pixel_was_submitted_as_it_was(
    services: Services,
    project_id: int,
    draft: list[Any],
    submitted: list[Any],
    unchanged: bool,
) -> None:
    judged(services, project_id, draft, submitted)
    [score] = services.store.labels.draft_scores(project_id)
    assert score.unchanged is unchanged


def test_the_changed_pixels_are_counted_by_label(services: Services, project_id: int) -> None:
    judged(services, project_id, drawn("Brush", slice(10, 50)), drawn("Brush", slice(20, 50)))
    [score] = services.store.labels.draft_scores(project_id)
    assert score.pixels == {"Lung": {"draft": 1600, "changed": 400}}
    assert not score.control


def test_a_draft_of_the_control_arm_is_marked(services: Services, project_id: int) -> None:
    services.store.projects.update(project_id, options={"random_fraction": 0.5})
    queue = QueueRecord(order=[TASK], scans={TASK: {"control": True}})
    write_queue(services.files(project_id), 1, queue)
    both = drawn("Brush", slice(10, 50))
    judged(services, project_id, both, both)
    [score] = services.store.labels.draft_scores(project_id)
    assert score.control
