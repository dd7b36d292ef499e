from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from backend.exchange.export.table import NAME, Table, export_table
from backend.rounds.services import Services
from backend.storage.tables import DraftScore
from tests.backend.conftest import drawn, the
from tests.backend.fake_label_studio import FakeLabelStudio


@pytest.fixture
def task(fake: FakeLabelStudio, project_id: int) -> int:
    return fake.add_task(project_id, np.zeros((16, 16)), volume="v1", slice=4)


def table(services: Services, project: int, folder: Path) -> tuple[Table, list[dict[str, str]]]:
    people = services.studio.user_names() if folder.name == "named" else {}
    written = export_table(services, the(services.store, project), folder, people)
    with (folder / NAME).open() as file:
        return written, list(csv.DictReader(file))


def test_a_line_holds_time_origin_and_the_draft_that_was_shown(
    services: Services, fake: FakeLabelStudio, project_id: int, task: int, tmp_path: Path
) -> None:
    regions = [
        {**drawn()[0], "id": name, "origin": origin}
        for name, origin in (("a", "prediction"), ("b", "prediction-changed"), ("c", "manual"))
    ]
    point = {**regions[2], "id": "d", "from_name": "point", "type": "keypointlabels"}
    choice = {"id": "e", "from_name": "quality", "type": "choices", "value": {"choices": ["good"]}}
    first = fake.annotate(task, [*regions, point, choice])
    fake.change_annotation(first, lead_time=90.0, completed_by=1)
    second = fake.annotate(task)
    services.store.labels.save_draft_score(
        DraftScore(
            project_id=project_id,
            task_id=task,
            version="attention-unet r0001",
            created_at=fake.projects[project_id].annotations[first]["created_at"],
            dice=0.875,
        )
    )
    written, [line, empty] = table(services, project_id, tmp_path)
    assert written.lines == 2
    assert (line["volume"], line["slice"], line["side"]) == ("v1", "4", "training")
    assert (line["annotation"], line["annotator"], line["minutes"]) == (str(first), "1", "1.500")
    assert (line["regions"], line["drafted"], line["drafted_and_changed"]) == ("3", "1", "1")
    assert line["drawn_by_hand"] == "1", "a key point and a choice draw no mask"
    assert (line["draft_dice"], line["draft_version"]) == ("0.8750", "attention-unet r0001")
    assert (empty["annotation"], empty["regions"], empty["minutes"]) == (str(second), "0", "")
    assert empty["draft_dice"] == "", "the draft was compared with the first annotation"


def test_names_of_annotators_stand_in_it_only_when_asked_for(
    services: Services, fake: FakeLabelStudio, project_id: int, task: int, tmp_path: Path
) -> None:
    fake.change_annotation(fake.annotate(task), completed_by=1)
    _, [line] = table(services, project_id, tmp_path / "numbered")
    assert line["annotator"] == "1"
    _, [line] = table(services, project_id, tmp_path / "named")
    assert line["annotator"] == "first@example.org"


def test_skips_are_left_out_and_unreadable_annotations_are_named(
    services: Services, fake: FakeLabelStudio, project_id: int, task: int, tmp_path: Path
) -> None:
    fake.annotate(task, drawn(), skip=True)
    fake.annotate(task, [{**drawn()[0], "value": {}}])
    fake.annotate(task, drawn())
    written, lines = table(services, project_id, tmp_path)
    assert len(lines) == 1
    [problem] = written.problems
    assert f"task {task}" in problem
    assert "is left out, because" in problem
