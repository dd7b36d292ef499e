"""What labels cost and how well people agree, in the words and tables of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.settings import Settings
from backend.storage.records import LabelRecord
from backend.storage.store import Store
from backend.web.app import create_app
from backend.web.project_page import label_panels

SAVED = {
    "total": {"value": 14.0, "low": 3.0, "high": 25.0},
    "per_label": {"value": 1.6, "low": 0.3, "high": 2.8},
    "drafted": 9,
    "plain": 6,
    "strata": 1,
}
MINUTES = {
    "labels": 15,
    "untimed": 0,
    "total": 33.5,
    "median": 1.25,
    "mean": {"value": 2.2, "low": 1.5, "high": 3.0},
    "capped": 1,
    "cut": 480.0,
    "drafts": {
        "used": 9,
        "unchanged": 2,
        "without": 6,
        "regions_kept": 4,
        "regions_changed": 7,
        "regions_added": 3,
        "dice": 0.913,
    },
    "saved": SAVED,
    "forecast": {"scans": 40, "value": 55.0, "low": 40.2, "high": 75.0},
    "weeks": [
        {"week": "2026-11-16", "labels": 5, "minutes": 20.0, "median": 4.0},
        {"week": "2026-11-23", "labels": 10, "minutes": 13.5, "median": 1.0},
    ],
    "annotators": [
        {"annotator": 1, "labels": 9, "minutes": 20.0, "median": 2.0},
        {"annotator": 2, "labels": 6, "minutes": 13.5, "median": 1.0},
    ],
    "longest": [{"task": 9, "minutes": 8.0}, {"task": 4, "minutes": 6.5}],
}
AGREEMENT = {
    "scans": 3,
    "pairs": 3,
    "annotators": [1, 2, 4],
    "common_scans": [[0, 2, 1], [2, 0, 0], [1, 0, 0]],
    "metrics": {
        "dice": {
            "mean": 0.8,
            "interval": [0.7, 0.9],
            "by_label": {"Lung": 0.8},
            "matrix": [[None, 0.75, 0.9], [0.75, None, None], [0.9, None, None]],
        },
        "hd95": {
            "mean": 4.0,
            "interval": None,
            "by_label": {"Lung": 4.0},
            "matrix": [[None, 5.0, 2.0], [5.0, None, None], [2.0, None, None]],
        },
    },
    "least": [{"task": 7, "dice": 0.5, "hd95": 9.25}, {"task": 2, "dice": 1.0, "hd95": 0.0}],
}


@pytest.fixture
def client(store: Store, tmp_path: Path) -> FlaskClient:
    return create_app(Settings(data_dir=tmp_path), store, lambda *_: []).test_client()


def saved(low: float, value: float, high: float) -> str:
    return label_panels.saved({**SAVED, "total": {"low": low, "value": value, "high": high}})


def test_minutes_are_told_with_breaks_drafts_and_a_forecast() -> None:
    assert label_panels.minutes({"minutes": MINUTES}) == [
        "Minutes: 15 labels took 34 min in all, 1.2 min each (median); 8.0 h of 1 label were taken "
        "for breaks.",
        "Drafts have saved 14 min so far (3.0 min to 25 min; 9 labels with a draft against 6 "
        "similar labels without).",
        "9 labels began with a draft, 2 of them submitted unchanged (regions: 4 kept, 7 changed, 3 "
        "drawn by hand); their Dice with the labels is 0.91.",
        "At the pace of the last labels, 40 waiting scans will take 55 min (40 min to 75 min).",
        "The longest work was on task 9 (8.0 min), task 4 (6.5 min).",
    ]


def test_an_interval_decides_whether_drafts_saved_or_cost_time_or_neither() -> None:
    assert "no clear difference yet (-3.0 min to 7.0 min" in saved(-3, 2, 7)
    assert saved(-9, -5, -2).startswith("Drafts have cost 5.0 min so far (2.0 min to 9.0 min;")
    assert "too early to tell" in label_panels.saved(None)


def test_agreement_is_told_by_every_metric_with_the_worst_scans() -> None:
    assert label_panels.agreement({"agreement": AGREEMENT}) == [
        "Agreement of 3 annotators on 3 scans: Dice 0.80 (0.70 to 0.90), HD95 4.0 pixels.",
        "Least agreement: task 7, Dice 0.50, HD95 9.2 pixels; task 2, Dice 1.00, HD95 0.0 pixels.",
    ]


def test_the_matrix_names_numbers_and_leaves_pairs_without_a_common_scan_empty() -> None:
    first, second, _ = label_panels.matrix({"agreement": AGREEMENT, "people": {}})
    assert first["name"] == "annotator 1"
    assert first["cells"][0] is None
    rest = ["HD95 5.0 pixels", "2 scans"]
    assert first["cells"][1] == {"share": 0.75, "score": "0.75", "rest": rest}
    assert second["cells"] == [first["cells"][1], None, None]
    allowed = label_panels.matrix({"agreement": AGREEMENT, "people": {"1": 70, "2": 12}})
    assert [row["name"] for row in allowed] == ["user 70", "user 12", "annotator 4"]


@pytest.mark.parametrize(
    ("minutes", "said"), [(0.5, "30 s"), (9.94, "9.9 min"), (119, "119 min"), (120, "2.0 h")]
)
def test_a_time_has_the_unit_that_a_person_would_choose(minutes: float, said: str) -> None:
    assert label_panels.time(minutes) == said


def test_a_project_without_figures_says_so_on_its_page_and_nothing_in_its_text(
    client: FlaskClient,
) -> None:
    shown = client.get("/projects/3?format=html").text
    assert "No label has a known time yet." in shown
    assert "No scan was drawn by two annotators yet." in shown
    assert "Minutes" not in client.get("/projects/3?format=text").text


def test_the_page_its_text_and_its_json_show_the_stored_figures(
    client: FlaskClient, store: Store
) -> None:
    record = LabelRecord(minutes=MINUTES, agreement=AGREEMENT)
    store.annotators.save_figures(3, record)
    shown, text = (client.get(f"/projects/3?format={kind}").text for kind in ("html", "text"))
    answer: dict[str, Any] = client.get("/projects/3?format=json").get_json()
    assert (answer["minutes"], answer["agreement"]) == (MINUTES, AGREEMENT)
    for sentence in [*label_panels.minutes(answer), label_panels.agreement(answer)[0]]:
        assert sentence in text
        assert sentence in shown
    assert 'style="width: 68.0%"' in shown, "13.5 of the longest week's 20 minutes"
    assert 'style="--share: 0.75"' in shown
    assert "annotator 4" in shown
    assert "task=7" in shown
