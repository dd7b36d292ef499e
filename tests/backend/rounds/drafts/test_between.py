"""Slices between two labelled ones get the draft that was better in this project so far."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from backend.label_studio import labels
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.drafts import queue_drafts
from backend.rounds.drafts.between import DRAWN_BETWEEN, MOST, Neighbours, SlicesBetween
from backend.rounds.drafts.draft_quality import score_drafts
from backend.rounds.services import Services
from backend.storage import artifacts, records
from backend.storage.records import QueueRecord
from backend.storage.tables import DraftScore, Publication
from model.between import LEAST

SIZE = (40, 40)
CONFIG = (
    '<View><Image name="i" value="$image"/><BrushLabels name="t" toName="i">'
    '<Label value="Lung"/></BrushLabels></View>'
)
OPTIONS = {"group_by": "volume", "slice_by": "slice"}


def drawn(radius: float) -> list[dict[str, Any]]:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = (rows - 20) ** 2 + (columns - 20) ** 2 <= radius**2
    return labels.regions(mask[None], labels.parse(CONFIG), scores=[1.0], tolerance=0.4)


class Volume:
    """A volume of nine slices, tasks 1 to 9 at the places 0 to 8, and a picture by itself."""

    def __init__(self, services: Services, number: int) -> None:
        self.services, self.store, self.number = services, services.store, number
        self.store.projects.update(number, label_config=CONFIG, options=OPTIONS)
        for task in range(1, 10):
            self.add(task, group="heart", place=float(task - 1))
        self.add(10, group="", place=3.0)

    def add(self, task: int, **values: Any) -> None:
        row = {"id": task, "url": f"/{task}.png", "updated_at": "1", "is_labeled": False}
        self.store.scans.save(self.number, [{**row, **values}])
        self.store.scans.update(self.number, task, height=SIZE[0], width=SIZE[1])

    def label(self, task: int, radius: float, second: int) -> None:
        when = datetime.fromtimestamp(self.store.clock() + second, UTC).isoformat()
        row = {
            "id": task,
            "task_id": task,
            "updated_at": when,
            "created_at": when,
            "cancelled": False,
            "ground_truth": False,
            "result": json.dumps(drawn(radius)),
        }
        self.store.labels.replace(self.number, [task], [row])
        self.store.scans.update(self.number, task, is_labeled=True)

    def scored(self, gains: list[float], gap: float = 4.0) -> None:
        """Store what earlier drafts scored, of tasks that are gone since."""
        for task, gain in enumerate(gains, start=100):
            self.store.labels.save_draft_score(
                DraftScore(
                    project_id=self.number, task_id=task, version="v", created_at=f"{task}",
                    dice=0.6, gap=gap, between_dice=0.6 + gain,
                )
            )  # fmt: skip

    @property
    def here(self) -> RoundContext:
        return RoundContext.of(self.services, LoadedEncoders(self.services.settings), self.number)

    @property
    def chosen(self) -> dict[int, Neighbours]:
        return SlicesBetween(self.here).chosen(range(1, 11))


@pytest.fixture
def volume(services: Services, project_id: int) -> Volume:
    return Volume(services, project_id)


def test_where_these_drafts_were_better_slices_between_labelled_ones_get_them(
    volume: Volume,
) -> None:
    volume.label(2, 6, 0)
    volume.label(6, 14, 1)
    assert volume.chosen == {}, "nothing has been compared yet"
    volume.scored([0.2] * LEAST)

    assert volume.chosen == {
        3: Neighbours(2, 6, 4.0, 0.25),
        4: Neighbours(2, 6, 4.0, 0.5),
        5: Neighbours(2, 6, 4.0, 0.75),
    }
    [_, (task, regions), _] = SlicesBetween(volume.here).drafts(range(1, 11))
    mask = labels.masks(regions, labels.parse(CONFIG), size=SIZE)
    assert task == 4
    assert mask.sum() == pytest.approx(np.pi * 10**2, rel=0.06)


@pytest.mark.parametrize(
    ("gains", "gap"),
    [([0.2] * (LEAST - 1), 4.0), ([0.2] * LEAST, 3.0), ([-0.2] * LEAST, 4.0)],
    ids=["too few", "only nearer ones", "worse"],
)
def test_otherwise_the_model_draws_them(volume: Volume, gains: list[float], gap: float) -> None:
    volume.label(2, 6, 0)
    volume.label(6, 14, 1)
    volume.scored(gains, gap)
    assert volume.chosen == {}


def test_a_group_in_which_two_scans_share_a_place_is_no_volume(volume: Volume) -> None:
    volume.label(2, 6, 0)
    volume.label(6, 14, 1)
    volume.scored([0.2] * LEAST)
    volume.add(11, group="heart", place=8.0)
    assert volume.chosen == {}


def test_a_round_draws_a_limited_number(volume: Volume) -> None:
    volume.label(2, 6, 0)
    volume.label(6, 14, 1)
    for task in range(20, 20 + MOST):
        volume.add(task, group="heart", place=1 + (task - 19) / 1000)
    volume.scored([0.2] * LEAST)
    queue = [3, 4, 5, *range(20, 20 + MOST)]
    assert len(SlicesBetween(volume.here).chosen(queue)) == MOST


def test_a_draft_is_compared_with_that_of_the_slices_labelled_before(volume: Volume) -> None:
    volume.label(2, 6, 0)
    volume.label(4, 10, 2)
    volume.label(5, 12, 3)  # after task 4, so it says nothing about its draft
    volume.label(6, 14, 1)
    drafts = {str(task): drawn(6) for task in (2, 4, 5, 6)}
    artifacts.write_json(volume.services.folder(volume.number) / "drafts" / "one.json", drafts)
    volume.store.publications.save(
        Publication(
            project_id=volume.number, name="v", round=1, attempt=1, drafts="one.json", live_at=1.0
        )
    )

    score_drafts(volume.here)

    scores = {score.task_id: score for score in volume.store.labels.draft_scores(volume.number)}
    assert {task: score.gap for task, score in scores.items()} == {2: None, 4: 4, 5: 2, 6: None}
    assert scores[4].dice < 0.6
    assert scores[4].between_dice == pytest.approx(1, abs=0.05)
    assert scores[6].between_dice is None


def test_the_queue_is_published_with_these_drafts_and_says_which(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.label(2, 6, 0)
    volume.label(4, 10, 1)
    volume.scored([0.2] * LEAST, gap=2.0)
    monkeypatch.setattr(queue_drafts, "are_shown", lambda here: True)
    artifacts.write_json(
        volume.services.folder(volume.number) / "drafts" / "one.json",
        {"3": [], "5": [{"id": "a region"}]},
    )
    record = QueueRecord(order=[5, 3], reasons=["far", "near"], model="a model")

    shown = queue_drafts.to_show(volume.here, "drafts/one.json", [5, 3])
    reasons = queue_drafts.explained(volume.here, record).reasons

    assert shown["5"] == [{"id": "a region"}]
    assert [region["type"] for region in shown["3"]] == ["brushlabels"]
    assert reasons == ["far", "near; draft drawn between its labelled neighbours"]
    monkeypatch.setattr(queue_drafts, "are_shown", lambda here: False)
    assert queue_drafts.to_show(volume.here, "drafts/one.json", [5, 3]) == {}
    assert queue_drafts.explained(volume.here, record) == record


def test_a_slice_that_showed_such_a_draft_says_nothing_of_the_models(volume: Volume) -> None:
    volume.label(2, 6, 0)
    volume.label(6, 14, 1)
    volume.label(4, 10, 2)
    folder = volume.services.folder(volume.number)
    artifacts.write_json(folder / "drafts" / "one.json", {"4": drawn(6)})
    record = QueueRecord(order=[4], reasons=[f"far; {DRAWN_BETWEEN}"], model="a model")
    records.write_queue(artifacts.ProjectFiles(folder), 1, record)
    volume.store.publications.save(
        Publication(
            project_id=volume.number, name="v", round=1, attempt=1, drafts="one.json", live_at=1.0
        )
    )

    score_drafts(volume.here)

    assert volume.store.labels.draft_scores(volume.number) == []
