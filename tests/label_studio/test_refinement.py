"""While nobody draws, the model is refined; a submit ends that at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from backend.commands.quickstart.service import Backend
from demo import scans
from demo.annotator import Annotator
from tests.label_studio.conftest import OPTIONS, Lab

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

LABELS = 5


@pytest.fixture
def refining(annotator: Annotator, backend: Backend, tmp_path: Path) -> Lab:
    project = annotator.create_project("refined", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(14, tmp_path / "phantoms"))
    backend.connect(project, {**OPTIONS, "refine": True, "max_refine_seconds": 15})
    return Lab(annotator, backend, project, dict(pool))


def wait_for_step(lab: Lab, step: str) -> None:
    while lab.page()["step"] != step:  # the test's own timeout ends a wait in vain
        time.sleep(0.2)


def test_the_model_is_refined_while_nobody_draws_and_makes_way_for_a_submit(refining: Lab) -> None:
    lab = refining
    lab.settle(labels=0)
    for _ in range(LABELS):
        lab.label_next()
    quick = str(lab.settle(labels=LABELS)["live_version"])
    wait_for_step(lab, "refine")
    assert "refining the drafts" in lab.page()["now"]

    lab.label_next()
    page = lab.settle(labels=LABELS + 1)
    assert page["live_version"] != quick
    assert page["refinement"] is None, "the round did not wait for the refinement"

    while lab.page()["refinement"] is None:
        time.sleep(0.5)
    page = lab.page()
    assert page["problem"] == ""
    assert page["labels_in_live"] == LABELS + 1
    drawn = lab.annotator.predictions(lab.project, page["live_version"])
    assert len(drawn) == 14 - LABELS - 1
    assert any(one["result"] for one in drawn)
    first = lab.queue()[0]
    assert lab.label_next() == first
    assert lab.settle(labels=LABELS + 2)["refinement"], "it draws on, since it lacks one label"
