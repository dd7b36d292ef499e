"""Two annotators with a known disagreement and known times, on a real Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.studio import LabelStudio
from demo import scans
from demo.annotator import Annotator, region
from tests.label_studio.conftest import OPTIONS, Lab, invited
from tests.label_studio.test_admin import until

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(600)]

SCANS, PLAIN, DRAFTED, TWICE = 16, 5, 6, 3
# Nothing is trained: the first queue is the only one.
QUIET = {**OPTIONS, "prelabels": False, "refine": False, "retrain_after": 1000}


def draw(person: Annotator, task: int, rows: slice, *, seconds: float, origin: str) -> None:
    """Submit some rows of a phantom, as the page does after so many seconds."""
    mask = np.zeros((128, 128), bool)
    mask[rows] = True
    body = {"result": [region(mask, "Object") | {"origin": origin}], "lead_time": seconds}
    person.call("POST", f"/api/tasks/{task}/annotations/", json=body)


def work(ann: Annotator, ben: Annotator, tasks: list[int]) -> None:
    """Draw some scans without and some with a draft; on some a second person draws lower."""
    for number, task in enumerate(tasks[: PLAIN + DRAFTED]):
        origin = "manual" if number < PLAIN else "prediction-changed"
        seconds = 180.0 if number < PLAIN else 60.0
        draw(ann, task, slice(32, 64), seconds=seconds, origin=origin)
    for task in tasks[:TWICE]:
        draw(ben, task, slice(48, 80), seconds=120.0, origin="manual")


def figures_of(lab: Lab) -> dict[str, Any]:
    """Wait until all labels are counted; return the page."""
    labels = PLAIN + DRAFTED + TWICE

    def counted() -> bool:
        page = lab.page()
        known = page.get("minutes") or {}, page.get("agreement") or {}
        return (known[0].get("labels"), known[1].get("pairs")) == (labels, TWICE)

    until(counted, lambda: {name: lab.page().get(name) for name in ("minutes", "agreement")})
    return lab.page()


@pytest.fixture(scope="module")
def ben(studio: LabelStudio, annotator: Annotator) -> Iterator[Annotator]:
    token = invited(studio, annotator, "ben@agreement.local")
    with Annotator(studio.url, token) as person:
        yield person


def test_known_masks_and_times_give_the_known_agreement_and_minutes(
    annotator: Annotator, ben: Annotator, backend: Backend, tmp_path: Path
) -> None:
    project = annotator.create_project("two readers", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(SCANS, tmp_path / "phantoms"))
    backend.connect(project, QUIET)
    lab = Lab(annotator, backend, project, dict(pool))
    lab.settle(labels=0)
    work(annotator, ben, sorted(pool))
    page = figures_of(lab)
    minutes, agreement = page["minutes"], page["agreement"]
    assert minutes["total"] == pytest.approx(PLAIN * 3 + DRAFTED + TWICE * 2)
    assert minutes["saved"]["total"]["value"] == pytest.approx(DRAFTED * 2)
    assert minutes["forecast"]["scans"] == SCANS - PLAIN - DRAFTED
    assert agreement["metrics"]["dice"]["mean"] == pytest.approx(0.5)
    assert agreement["metrics"]["hd95"]["mean"] == pytest.approx(16.0)
    assert agreement["annotators"] == [1, 2]
    assert "ben@" not in str(page), "people are numbers"


def test_the_free_edition_lets_a_second_reader_have_a_share_of_the_scans(
    annotator: Annotator, ben: Annotator, backend: Backend, tmp_path: Path
) -> None:
    project = annotator.create_project("second readings", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(SCANS, tmp_path / "phantoms"))
    backend.connect(project, {**QUIET, "second_reading": 0.2, "retrain_after": 1})
    lab = Lab(annotator, backend, project, dict(pool))
    lab.settle(labels=0)

    def asked() -> list[int]:
        listed = annotator.call(
            "GET", "/api/tasks", params={"project": project, "include": "id,overlap"}
        )
        return [task["id"] for task in listed["tasks"] if task["overlap"] == 2]

    until(lambda: len(asked()) == 2, asked)  # a fifth of a batch of ten
    for number, task in enumerate(asked(), start=1):
        draw(annotator, task, slice(32, 64), seconds=60.0, origin="manual")
        lab.settle(labels=number)
    assert set(lab.queue()[:2]) == set(asked()), "what is drawn once comes first ..."
    for _ in range(2):
        second = ben.next_task(project)
        assert second is not None
        assert second["id"] in asked(), "... for a second person"
        draw(ben, second["id"], slice(32, 64), seconds=60.0, origin="manual")
    first = annotator.next_task(project)
    assert first is not None
    assert first["id"] not in asked(), "nobody draws a scan twice"
