"""The report: complete, self-contained, and without anything that names a person."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from click.testing import CliRunner

from backend.commands.cli import cli
from backend.commands.report import pictures
from backend.errors import FirstlightError, ImageError, StorageError, Unreachable
from backend.rounds import sync
from backend.rounds.models.learner import Learner
from backend.rounds.services import Services
from backend.storage.records import LabelRecord, ModelQuality
from backend.storage.tables import Model, Publication
from tests.backend.conftest import drawn, the
from tests.backend.fake_label_studio import CONFIG, TOKEN, FakeLabelStudio
from tests.backend.web.project_page.test_stopping_panel import found

PLANTED = ("Jane Doe", "jane.doe", "St Mary", "1950-02-03", TOKEN)


@pytest.fixture
def project(
    services: Services, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> int:
    """A project of whose rows many name a person; the command uses the services of the test."""
    monkeypatch.setattr("backend.rounds.services.build", lambda settings, store: services)
    monkeypatch.setattr("backend.commands.report.command.load_settings", lambda: services.settings)
    [entry] = fake.entries.values()
    entry["extra_params"] = {
        "source_by": "Jane Doe's hospital", "slice_by": "jane.doe slice", "show_people": True,
    }  # fmt: skip
    tasks = [fake.add_task(project_id, np.zeros((16, 16))) for _ in range(4)]
    for task in tasks[:3]:
        fake.annotate(task, drawn(), by={"id": 977_531, "email": "jane.doe@a.test"}, seconds=60.0)
    store = services.store
    sync.sync(services.studio, store, the(store, project_id))
    for task in tasks:
        store.scans.update(project_id, task, source="St Mary")
    store.scans.update(project_id, tasks[3], problem="jane.doe-1950-02-03.png is damaged")
    store.projects.update(
        project_id,
        title="Jane Doe",
        label_config=CONFIG,
        problem="Jane Doe",
        warnings=["Jane Doe"],
        live_version="v1",
    )
    quality = ModelQuality(
        held_out={"dice": {tasks[0]: 0.9, tasks[1]: 0.8}, "hd95": {tasks[0]: 3.0, tasks[1]: 5.0}},
        validation_scans=2,
        calibration_error=0.02,
    )
    model = Model(
        project_id=project_id, key="k", labels=2, classes=["Lung"], created_at=1.0, quality=quality
    )
    store.publications.save_model(model)
    store.publications.save(
        Publication(
            project_id=project_id, name="v1", round=1, attempt=1, model_key="k", live_at=1.0
        )
    )
    worst = {"source_of": tasks[0], "scans": 3, "dice": {"value": 0.7, "low": 0.6, "high": 0.8}}
    record = LabelRecord(stopping=found(worst=worst), people={"1": 977_531})
    store.annotators.save_figures(project_id, record)
    return project_id


@pytest.fixture
def written(project: int, tmp_path: Path) -> tuple[str, str]:
    """The HTML and the JSON of the report."""
    folder = tmp_path / "report"
    done = CliRunner().invoke(cli, ["report", str(project), str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return (folder / "report.html").read_text(), (folder / "report.json").read_text()


def test_the_report_names_no_person_no_file_no_source_and_no_token(
    written: tuple[str, str],
) -> None:
    for text in written:
        assert not [planted for planted in (*PLANTED, "977531", "Mary") if planted in text]


@pytest.mark.parametrize(
    ("review", "said"),
    [
        (True, "The labels were not reviewed."),
        (False, "Labels are not reviewed: the option <code>review</code> is false."),
    ],
)
def test_a_report_without_a_review_says_whether_it_is_off(
    services: Services, project: int, tmp_path: Path, review: bool, said: str
) -> None:
    services.store.projects.update(project, options={"review": review})
    folder = tmp_path / "report"
    CliRunner().invoke(cli, ["report", str(project), str(folder)], catch_exceptions=False)
    assert said in (folder / "report.html").read_text()


def test_the_page_needs_no_network(written: tuple[str, str]) -> None:
    html, _ = written
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "http" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImageError("jane.doe.png is damaged."), "a held-out scan cannot be read."),
        (StorageError("jane.doe cannot be read."), "the weights of the live model cannot be read"),
        (Unreachable("http://jane.doe fails."), "Label Studio did not give a held-out scan"),
    ],
)
def test_missing_pictures_have_a_reason_in_words(
    services: Services,
    project: int,
    monkeypatch: pytest.MonkeyPatch,
    error: FirstlightError,
    said: str,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(Learner, "knows", lambda *_: True)
    monkeypatch.setattr(Learner, "load", fail)
    found, why = pictures.failures(services, the(services.store, project))
    assert found == []
    assert said in why
    assert "jane" not in why
    assert type(error).__name__ not in why


def test_page_and_json_hold_the_same_facts(written: tuple[str, str]) -> None:
    html, document = written
    facts = json.loads(document)
    assert facts["data"]["scans"] == 4
    assert facts["data"]["unreadable"] == 1
    assert facts["data"]["sources"] == [{"source": 1, "scans": 4, "labelled": 3}]
    assert facts["people"] == [{"annotator": 1, "labels": 3}]
    assert facts["model"]["scores"]["dice"]["value"] == pytest.approx(0.85)
    assert facts["model"]["scores"]["hd95"]["value"] == pytest.approx(4.0)
    assert facts["options"]["source_by"] is True
    assert facts["stopping"]["worst"]["source"] == "1"
    for said in ("labelling can stop for your threshold of 0.5", "0.850", "4.0", "source 1"):
        assert said in html
