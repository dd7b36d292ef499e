"""Labels under suspicion: listed with a reason and a picture, and taken off by a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from backend.imaging.decoder_process import Decoders
from backend.imaging.scan_cache import Scans
from backend.label_studio import labels
from backend.rounds.idle import review_files, review_list
from backend.settings import Settings
from backend.storage import ledger
from backend.storage.artifacts import Artifacts
from backend.storage.records import REVIEW, ReviewedScan, ReviewRecord
from backend.storage.store import Store, open_store
from backend.web.app import create_app
from backend.web.project_page import review_panel
from tests.backend.fake_label_studio import CONFIG

FILE = review_files.name_of("key", 0)
PAGE = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
SUSPICIONS = {1: 0.9, 2: 0.4, 3: 0.01}
SIDE = 24


def box(left: int) -> Any:
    """The regions of a box, 8 of 24 pixels wide."""
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, 4:20, left : left + 8] = True
    return labels.regions(mask, labels.parse(CONFIG), scores=[1.0])


def annotate(store: Store, task_id: int, updated_at: str = "1") -> None:
    row = {
        "id": 100 + task_id,
        "task_id": task_id,
        "updated_at": updated_at,
        "created_at": "1",
        "cancelled": False,
        "ground_truth": False,
        "result": json.dumps(box(2)),
        "problem": "",
    }
    store.labels.replace(3, [task_id], [row])


@pytest.fixture
def known(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def store(tmp_path: Path, known: Settings) -> Iterator[Store]:
    """A project whose three labels were reviewed; two of them are suspicious."""
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.create()
    store.projects.request_refresh(3)
    store.projects.update(3, label_config=CONFIG, options={"review": True})
    store.scans.save(3, [{"id": number, "url": f"/{number}.png"} for number in SUSPICIONS])
    for number in SUSPICIONS:
        annotate(store, number)
    now = ledger.read(store, 3)
    scans = [
        ReviewedScan(
            task=task,
            label=review_list.label_of(now, task),
            annotations=[100 + task],
            score=score,
            share=score,
            reason="missing",
            about="Object",
            file=FILE,
        )
        for task, score in SUSPICIONS.items()
    ]
    store.studies.save(3, REVIEW, "v1", ReviewRecord(scans=scans).written())
    expected = {task: box(14) for task in SUSPICIONS}
    review_files.write(Artifacts(known.data_dir).of(3), FILE, scans, expected)
    yield store
    store.close()


@pytest.fixture
def client(store: Store, known: Settings) -> FlaskClient:
    return create_app(known, store, lambda *_: []).test_client()


def listed(client: FlaskClient) -> list[int]:
    review = client.get("/projects/3?format=json").get_json()["review"]
    return [scan["task"] for scan in review["scans"]]


def confirm(client: FlaskClient, task: object, headers: Any = PAGE) -> Any:
    return client.post("/projects/3/confirm", data={"task": str(task)}, headers=headers)


def test_suspicious_labels_are_listed_in_html_text_and_json(client: FlaskClient) -> None:
    review = client.get("/projects/3?format=json").get_json()["review"]
    why = "Object: the mask leaves out a part that the network is sure of"
    assert review == {
        "reviewed": 3,
        "suspicious": 2,
        "scans": [
            {"task": 1, "suspicion": 0.9, "reason": why},
            {"task": 2, "suspicion": 0.4, "reason": why},
        ],
    }
    text = client.get("/projects/3?format=text").text
    assert "Review: 2 of 3 labels look wrong to networks that did not learn from them." in text
    assert f"  - task 1 (suspicion 0.90): {why}" in text
    page = client.get("/projects/3", headers=PAGE).text
    assert page.index('id="confirm-1"') < page.index('id="confirm-2"')
    assert 'id="confirm-3"' not in page
    assert 'src="/projects/3/reviews/1.png"' in page
    assert why in page


def test_without_the_option_there_is_no_list(client: FlaskClient, store: Store) -> None:
    store.projects.update(3, options={"review": False})
    assert client.get("/projects/3?format=json").get_json()["review"] is None
    assert "Review:" not in client.get("/projects/3?format=text").text
    assert "the option <code>review</code> is false" in client.get("/projects/3", headers=PAGE).text


def test_before_the_first_review_the_page_says_when_it_is_made(
    client: FlaskClient, store: Store
) -> None:
    store.projects.request_refresh(4)
    store.projects.update(4, options={"review": True})
    assert "From 20 labelled scans on" in client.get("/projects/4", headers=PAGE).text


def test_the_sentence_counts_the_labels(client: FlaskClient) -> None:
    assert confirm(client, 1).status_code == 303
    text = client.get("/projects/3?format=text").text
    assert "Review: 1 of 2 labels looks wrong to a network that did not learn from it." in text
    assert confirm(client, 2).status_code == 303
    text = client.get("/projects/3?format=text").text
    assert "Review: None of 1 label looks wrong" in text


def test_a_confirmed_label_leaves_the_list_and_the_action_is_kept(
    client: FlaskClient, store: Store
) -> None:
    answer = confirm(client, 1)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/projects/3#review")
    assert listed(client) == [2]
    [action] = client.get("/projects/3/rounds.json").get_json()["actions"]
    assert (action["action"], action["task"], action["origin"]) == ("confirm", 1, "page")
    annotate(store, 1, updated_at="2")  # another label is another matter
    assert listed(client) == [2]
    store.projects.forget(3)
    assert store.publications.confirmed(3) == set()
    assert store.studies.record(3, REVIEW) == {}


def test_a_corrected_label_leaves_the_list_by_itself(client: FlaskClient, store: Store) -> None:
    annotate(store, 1, updated_at="2")
    assert listed(client) == [2]


@pytest.mark.parametrize("task", [9, 10**10])
def test_only_a_listed_label_can_be_confirmed(client: FlaskClient, task: int) -> None:
    answer = confirm(client, task, {"Accept": "application/json"})
    assert answer.status_code == 409
    assert "load the page again" in answer.get_json()["fix"]
    assert listed(client) == [1, 2]


@pytest.mark.parametrize("task", ["", "x", "-1", "1.5", "9" * 40])
def test_a_wrong_number_is_told(client: FlaskClient, task: str) -> None:
    assert confirm(client, task).status_code == 400


def test_another_site_cannot_confirm(client: FlaskClient) -> None:
    assert confirm(client, 1, {"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert listed(client) == [1, 2]


def test_a_script_is_answered_with_json(client: FlaskClient) -> None:
    answer = confirm(client, 1, {"Accept": "application/json"})
    assert answer.get_json() == {
        "done": "The label of task 1 counts as right until somebody changes it."
    }


def keep_scan(known: Settings) -> None:
    file = BytesIO()
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(file, "PNG")
    folder = known.project_folder(3)
    kept = Scans(lambda *_: file.getvalue(), folder, Decoders(), longest=256, max_pixels=10**6)
    kept.get(1, "/1.png")


def test_no_picture_is_made_of_classes_that_are_gone(
    client: FlaskClient, known: Settings, store: Store
) -> None:
    keep_scan(known)
    store.projects.update(3, label_config=CONFIG.replace("Lung", "Liver"))
    assert client.get("/projects/3/reviews/1.png").status_code == 404


def test_the_picture_shows_the_label_and_beside_it_the_expected_mask(
    client: FlaskClient, known: Settings
) -> None:
    keep_scan(known)
    answer = client.get("/projects/3/reviews/1.png")
    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    shown = np.asarray(Image.open(BytesIO(answer.data)))
    side, gap = review_panel.SIDE, review_panel.GAP
    assert shown.shape == (side, 2 * side + gap, 3)
    for panel, left in ((shown[:, :side], 2), (shown[:, side + gap :], 14)):
        columns = np.flatnonzero((panel == review_panel.COLOURS[0]).all(axis=2).any(axis=0))
        assert (columns[0], columns[-1] + 1) == (left * side // SIDE, (left + 8) * side // SIDE)


@pytest.mark.parametrize("task", ["3", "9", "x"])
def test_without_a_kept_scan_or_a_review_there_is_no_picture(
    client: FlaskClient, task: str
) -> None:
    assert client.get(f"/projects/3/reviews/{task}.png").status_code == 404
