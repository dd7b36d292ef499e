from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backend.storage import artifacts, records
from backend.storage.artifacts import ProjectFiles, Space
from backend.storage.records import ModelQuality, QueueRecord, Record, ReviewRecord, RoundRecord
from backend.storage.store import Store
from backend.storage.tables import Model

FIRST_RELEASE = Path("tests/upgrade/schema-1/projects/1")
QUEUE = QueueRecord(
    order=[3, 1],
    reasons=["medoid", "far away"],
    encoder="pixels",
    options={"projection": "pca", "seed": 5},
    scans={3: {"cluster": 0, "entropy": None}, 1: {"cluster": 1, "entropy": 0.5}},
)
QUALITY = {
    "train_seconds": 9.3,
    "started_from": "",
    "learnt": "d",
    "validation_dice": 0.9,
    "validation_hd95": 4.5,
    "dice_by_label": {"Lung": 0.9},
    "hd95_by_label": {"Lung": 4.5},
    "validation_scans": 8,
    "calibration_error": 0.03,
    "temperature": 1.5,
}


def test_a_queue_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    files = ProjectFiles(tmp_path)
    records.write_queue(files, 7, QUEUE)
    found = records.read_queue(files, 7)
    assert found == QUEUE
    assert found.space == Space("pixels", "pca", 5)
    assert found.reason_of == {3: "medoid", 1: "far away"}


@pytest.mark.parametrize("content", ["", '{"order": [3', '{"order": {}}', "[]"])
def test_no_queue_and_a_damaged_one_are_absent(tmp_path: Path, content: str) -> None:
    files = ProjectFiles(tmp_path)
    assert records.read_queue(files, 7) is None
    files.write(artifacts.round_name(7), lambda file: file.write(content.encode()))
    assert records.read_queue(files, 7) is None


@pytest.mark.parametrize("number", [1, 2, 3])
def test_queues_of_the_first_release_are_read_and_exported_as_they_are(number: int) -> None:
    files = ProjectFiles(FIRST_RELEASE)
    found = records.read_queue(files, number)
    assert found
    assert set(found.scans) <= set(found.order)
    written = json.loads(json.dumps(found.written()))
    assert written == json.loads((FIRST_RELEASE / artifacts.round_name(number)).read_text())


def test_a_record_has_defaults_for_what_is_missing_and_keeps_what_it_does_not_know() -> None:
    found = QueueRecord.model_validate({"order": [1], "novel": {"a": 1}})
    assert (found.labels, found.strategy, found.scans) == ([], None, {})
    assert found.written() == {"order": [1], "novel": {"a": 1}}
    assert RoundRecord.model_validate({}).seconds == {}
    assert ModelQuality.model_validate({}).temperature == 1


@pytest.mark.parametrize("record", [QUEUE, RoundRecord(version="v"), ModelQuality()])
def test_records_do_not_change(record: Record) -> None:
    with pytest.raises(ValidationError):
        setattr(record, next(iter(type(record).model_fields)), {})


def test_a_changed_record_is_another_one() -> None:
    first = RoundRecord(seconds={"train": 1.5})
    assert first.changed(version="v").written() == {"seconds": {"train": 1.5}, "version": "v"}
    assert first.written() == {"seconds": {"train": 1.5}}


def test_each_metric_has_its_keys_in_the_quality_of_a_model() -> None:
    found = ModelQuality.model_validate(QUALITY)
    assert found.validation == {"dice": 0.9, "hd95": 4.5}
    assert found.by_label == {"dice": {"Lung": 0.9}, "hd95": {"Lung": 4.5}}
    assert found.validation_scans == 8
    assert json.dumps(found.written()) == json.dumps(QUALITY)


def test_a_metric_that_nobody_knew_here_is_read_too() -> None:
    written = {"validation_iou": 0.8, "iou_by_label": {"Lung": 0.8}}
    found = ModelQuality.model_validate(written)
    assert (found.validation["iou"], found.by_label["iou"]) == (0.8, {"Lung": 0.8})
    assert found.written() == written


@pytest.mark.parametrize("written", [QUALITY, {"train_seconds": 0.6, "started_from": ""}])
def test_a_row_gives_the_quality_that_was_stored(store: Store, written: dict[str, Any]) -> None:
    quality = ModelQuality.model_validate(written)
    store.publications.save_model(
        Model(project_id=1, key="k", labels=2, created_at=0.0, quality=quality)
    )
    found = store.publications.model(1, "k")
    assert found
    assert (found.quality, found.quality.written()) == (quality, written)


def test_order_and_labels_of_a_queue_are_read_without_its_scans(tmp_path: Path) -> None:
    files = ProjectFiles(tmp_path)
    records.write_queue(files, 1, QUEUE.changed(labels=["1@now"]))
    assert (records.read_order(files, 1), records.read_labels(files, 1)) == ([3, 1], ["1@now"])
    assert (records.read_order(files, 2), records.read_labels(files, 2)) == (None, None)


@pytest.mark.parametrize("published", [0, 3])
def test_the_tab_of_a_review_by_an_early_release_was_made_with_its_first_suspicion(
    published: int,
) -> None:
    review = ReviewRecord.model_validate({"scans": [], "published": published})
    assert (review.tab, review.published) == (published > 0, published)
    removed = review.changed(tab=False).written()
    assert not ReviewRecord.model_validate(removed).tab, "what was written since holds"
