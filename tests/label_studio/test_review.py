"""Wrong labels that were planted are found through the tab, as the Data Manager reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.commands.quickstart.service import Backend
from backend.label_studio import review_tab
from demo import scans
from demo.annotator import Annotator
from tests.label_studio.conftest import OPTIONS, Lab
from tests.label_studio.test_admin import until

pytestmark = [pytest.mark.studio, pytest.mark.slow, pytest.mark.timeout(1800)]

SCANS, LABELLED = 27, 24
MISSING, SHIFTED, EMPTY = 3, 9, 15  # the places of the wrong labels
# One round follows, with the last label.
REVIEWED = {**OPTIONS, "prelabels": False, "review": True, "retrain_after": LABELLED}


def drawn(place: int, mask: Any) -> Any:
    """What the annotator draws on the scan at this place: the truth, or a planted error."""
    if place == MISSING:
        rows = np.flatnonzero(mask.any(axis=1))
        return mask & (np.arange(len(mask)) < np.median(rows))[:, None]
    if place == SHIFTED:
        return np.roll(mask, 24, axis=0)
    return np.zeros_like(mask) if place == EMPTY else mask


def plant(lab: Lab) -> list[int]:
    """Label scans, three of them wrongly; return these tasks."""
    lab.settle(labels=0)
    for place, (task, scan) in enumerate(sorted(lab.scans.items())[:LABELLED]):
        assert scan.mask is not None
        lab.annotator.submit({"id": task, "project": lab.project}, drawn(place, scan.mask))
    until(lambda: bool(lab.page().get("review")), lambda: lab.page()["now"], seconds=1200)
    return [sorted(lab.scans)[place] for place in (MISSING, SHIFTED, EMPTY)]


def rows_of_tab(lab: Lab) -> list[dict[str, Any]]:
    """The rows of the tab, first to last, by the call of the Data Manager's page."""
    tabs = lab.annotator.call("GET", "/api/dm/views/", params={"project": lab.project})
    [tab] = [one for one in tabs if one["data"]["title"] == review_tab.TITLE]
    query = json.dumps({name: tab["data"][name] for name in ("filters", "ordering")})
    asked = {"project": lab.project, "view": tab["id"], "page_size": 100, "query": query}
    rows: list[dict[str, Any]] = lab.annotator.call("GET", "/api/tasks", params=asked)["tasks"]
    return rows


def test_planted_errors_are_found_through_the_tab(
    annotator: Annotator, backend: Backend, tmp_path: Path
) -> None:
    project = annotator.create_project("reviewed", ["Object"])
    pool = annotator.import_scans(project, scans.phantoms(SCANS, tmp_path / "phantoms"))
    backend.connect(project, REVIEWED)
    lab = Lab(annotator, backend, project, dict(pool))
    wrong = plant(lab)
    queue = lab.page()["next"]
    rows = rows_of_tab(lab)
    assert len(rows) == LABELLED, "the tab lists labelled scans alone"
    assert {row["id"] for row in rows[:3]} == set(wrong)
    scores = [row["predictions_score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(1 <= score <= 2 for score in scores)
    listed = {scan["task"]: scan["reason"] for scan in lab.page()["review"]["scans"]}
    assert "the mask is empty" in listed[wrong[2]]
    assert "leaves out a part" in listed[wrong[0]]
    served = annotator.next_task(project)
    assert served is not None
    assert served["id"] == queue[0]["task"], "a suspicion never comes before the queue"
