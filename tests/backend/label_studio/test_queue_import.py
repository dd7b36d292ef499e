from __future__ import annotations

import itertools

import pytest

from backend.label_studio import queue_import
from backend.label_studio.client import QUEUE, LabelStudio
from backend.label_studio.queue_import import QueueItem
from tests.backend.conftest import drawn
from tests.backend.fake_label_studio import FakeLabelStudio


@pytest.mark.parametrize("number", [1, 2, 1000, 100_000])
def test_scores_rise_strictly_within_zero_and_one(number: int) -> None:
    scores = [queue_import.score(position, number) for position in range(number)]
    assert all(low < high for low, high in itertools.pairwise(scores))
    assert 0 < scores[0] <= scores[-1] < 1


def test_large_drafts_go_out_in_smaller_parts(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = len(drawn()[0]["value"]["rle"])
    monkeypatch.setattr(queue_import, "IMPORT_NUMBERS", 2 * one)
    tasks = [fake.add_task(project_id) for _ in range(6)]
    results = [drawn(), [], drawn(), drawn(), 3 * drawn(), drawn()]
    queue = [QueueItem(task, result) for task, result in zip(tasks, results, strict=True)]
    studio.import_queue(project_id, "v", queue)
    assert [len(rows) for rows in fake.imports] == [3, 1, 1, 1]
    studio.switch(project_id, "v")
    assert fake.served(project_id) == tasks


def test_the_first_scan_of_the_queue_gets_the_lowest_score_and_its_draft(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_import, "IMPORT_CHUNK", 2)
    tasks = [fake.add_task(project_id) for _ in range(5)]
    order = [tasks[number] for number in (3, 0, 4, 1, 2)]
    studio.import_queue(project_id, "v", [QueueItem(task, drawn()) for task in order])
    assert [len(rows) for rows in fake.imports] == [2, 2, 1]
    studio.switch(project_id, "v")
    assert fake.served(project_id) == order
    assert fake.prelabel(project_id, order[0]) == drawn()
    assert fake.projects[project_id].sampling == QUEUE
    assert studio.version_count(project_id, "v") == 5
    assert studio.version_count(project_id, "w") == 0
