from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend import pages
from backend.app import create_app
from backend.errors import NotFound
from backend.settings import Settings
from backend.store import DraftScore, Model, Store, Version, open_store

NOW = 1_800_000_000.0
DONE = "Every scan is labelled: nothing is left to draw, training has stopped."


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.clock = lambda: NOW
    store.create()
    store.want(3)
    store.update(3, title="Liver CT", done=1, full_synced_at=NOW - 240)
    yield store
    store.engine.dispose()


@pytest.fixture
def known(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def client(store: Store, known: Settings) -> FlaskClient:
    return create_app(known, store, lambda project, task: []).test_client()


def add_tasks(store: Store, *ids: int, **values: Any) -> None:
    store.save_tasks(3, [{"id": number, "url": f"/{number}.png", **values} for number in ids])


def annotate(store: Store, task_id: int, *, cancelled: bool = False, problem: str = "") -> None:
    row = {
        "id": 100 + task_id,
        "task_id": task_id,
        "updated_at": "",
        "created_at": "",
        "cancelled": cancelled,
        "ground_truth": False,
        "result": "[]",
        "problem": problem,
    }
    store.replace_annotations(3, [task_id], [row])


def publish(store: Store, *task_ids: int, labels: int = 0, number: int = 7) -> None:
    store.save_version(
        Version(
            project_id=3,
            name=f"attention-unet r{number:04d}",
            round=number,
            attempt=1,
            model_key="k1",
            labels=labels,
            published=list(task_ids),
        )
    )
    store.go_live(3, f"attention-unet r{number:04d}")


def page(client: FlaskClient) -> str:
    response = client.get("/projects/3")
    assert response.status_code == 200
    assert response.content_type == "text/plain; charset=utf-8"
    return response.text


def test_a_new_project_has_every_key_and_nothing_in_it(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    state = client.get("/projects/3?format=json").get_json()
    assert state == pages.status(store, known, 3)
    assert state == {
        "project": 3,
        "title": "Liver CT",
        "step": None,
        "step_seconds": None,
        "progress": {},
        "pinned": None,
        "live_version": None,
        "labels_in_live": 0,
        "labels_used": 0,
        "labels_ignored": [],
        "scans": 0,
        "labelled": 0,
        "complete": False,
        "prequential_dice": None,
        "validation_dice": None,
        "calibration_error": None,
        "wanted": 1,
        "done": 1,
        "synced_at": NOW - 240,
        "next": [],
        "unreadable": [],
        "warnings": [],
        "problem": "",
        "mend": "",
        "options_problem": "",
        "round": 0,
    }
    text = page(client)
    assert text.startswith("Liver CT (project 3)\n")
    assert "Queue: none has been published yet." in text
    assert "Quality: not known yet." in text
    assert DONE not in text


def test_an_unknown_project_is_not_found_and_told_how_to_be_connected(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    response = client.get("/projects/9")
    assert response.status_code == 404
    assert "connect 9" in response.get_json()["mend"]
    with pytest.raises(NotFound):
        pages.status(store, known, 9)


def test_only_annotations_that_can_train_count_and_the_others_say_why(
    store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, 3, 4, 5)
    store.update_task(3, 4, problem="The file is no picture.")
    annotate(store, 1)
    annotate(store, 2, cancelled=True)
    annotate(store, 3, problem="brush region 0: it has no label")
    annotate(store, 4)
    annotate(store, 9)
    state = pages.status(store, known, 3)
    assert (state["scans"], state["labelled"], state["labels_used"]) == (5, 1, 1)
    assert state["labels_ignored"] == [
        {"annotation": 102, "task": 2, "reason": "skipped"},
        {"annotation": 103, "task": 3, "reason": "brush region 0: it has no label"},
        {
            "annotation": 104,
            "task": 4,
            "reason": "its scan cannot be read: The file is no picture.",
        },
        {"annotation": 109, "task": 9, "reason": "its scan is not in the project"},
    ]
    assert state["unreadable"] == [{"task": 4, "problem": "The file is no picture."}]


def test_two_annotations_of_one_scan_are_one_label(store: Store, known: Settings) -> None:
    add_tasks(store, 1)
    row = {"task_id": 1, "updated_at": "", "created_at": "", "ground_truth": False, "result": ""}
    store.replace_annotations(3, [1], [{"id": n, "cancelled": n == 2, **row} for n in (1, 2, 3)])
    state = pages.status(store, known, 3)
    assert (state["labels_used"], len(state["labels_ignored"])) == (1, 1)


def test_a_project_is_complete_when_every_readable_scan_is_labelled(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, 3)
    store.update_task(3, 3, problem="The file is no picture.")
    annotate(store, 1)
    assert not pages.status(store, known, 3)["complete"]
    annotate(store, 2)
    assert pages.status(store, known, 3)["complete"]
    assert DONE in page(client)


def test_next_are_the_first_open_scans_of_the_live_queue_with_their_reasons(
    store: Store, known: Settings
) -> None:
    add_tasks(store, *range(1, 16))
    order = list(range(15, 0, -1))
    publish(store, *order)
    annotate(store, 15)
    add_tasks(store, 13, is_labeled=True)
    rounds = known.data_dir / "projects" / "3" / "rounds"
    rounds.mkdir(parents=True)
    reasons = [f"reason of {task}" for task in order]
    (rounds / "0007.json").write_text(json.dumps({"order": order, "reasons": reasons}))
    following = pages.status(store, known, 3)["next"]
    assert [one["task"] for one in following] == [14, 12, 11, 10, 9, 8, 7, 6, 5, 4]
    assert [one["position"] for one in following] == list(range(1, 11))
    assert following[0]["reason"] == "reason of 14"


def test_next_does_without_the_file_of_reasons(store: Store, known: Settings) -> None:
    add_tasks(store, 1)
    publish(store, 1)
    assert pages.status(store, known, 3)["next"] == [{"task": 1, "position": 1, "reason": ""}]


def test_quality_is_of_the_last_five_drafts_and_of_the_live_model(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    for number, dice in enumerate([0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9]):
        store.save_draft_score(
            DraftScore(project_id=3, task_id=number, version="v", created_at=f"{number}", dice=dice)
        )
    publish(store, labels=12)
    assert pages.status(store, known, 3)["validation_dice"] is None
    store.save_model(
        Model(
            project_id=3, key="k1", labels=12, created_at=1,
            quality={"validation_dice": 0.81, "calibration_error": 0.034},
        )
    )  # fmt: skip
    state = pages.status(store, known, 3)
    assert state["prequential_dice"] == pytest.approx(0.7)
    assert (state["validation_dice"], state["labels_in_live"]) == (0.81, 12)
    text = page(client)
    assert "Dice 0.70" in text
    assert "is 0.81" in text
    assert "its probabilities are off by 0.03 there, on average" in text
    assert "it was made from 12 labelled scans." in text


def test_the_page_says_what_is_going_on_and_for_how_long(client: FlaskClient, store: Store) -> None:
    store.enter(3, "train")
    store.clock = lambda: NOW + 12
    state = client.get("/projects/3?format=json").get_json()
    assert (state["step"], state["step_seconds"], state["progress"]) == ("train", 12, {})
    assert "Now: training the network, for 12 s." in page(client)
    store.enter(3, "tidying")
    assert "Now: tidying, for 0 s." in page(client)


def test_the_page_says_in_words_how_far_a_step_is(client: FlaskClient, store: Store) -> None:
    store.enter(3, "embed", done=5, total=64)
    assert "Now: looking at scans that are new, 5 of 64 scans, for 0 s." in page(client)
    done = {"epoch": 3, "epochs": 13, "batch": 27, "batches": 130, "loss": 0.4123}
    store.enter(3, "train", **done)
    assert "Now: training the network, epoch 3 of 13, batch 27 of 130, loss 0.41, for 0 s." in page(
        client
    )
    store.enter(3, "train", **done, dice=0.8, seconds_left=240)
    assert "loss 0.41, Dice 0.80 on held-out scans, about 4 min left, for 0 s." in page(client)


def test_the_page_says_every_problem_and_its_mend(client: FlaskClient, store: Store) -> None:
    store.update(
        3,
        problem="The token was refused.",
        mend="Set a new one.",
        options_problem="alpha: too large.",
        warnings=["No encoder weights were found."],
    )
    text = page(client)
    assert "Problem: The token was refused. Set a new one." in text
    assert "Options: alpha: too large." in text
    assert "  - No encoder weights were found." in text


def test_the_page_ends_with_how_fresh_it_is(client: FlaskClient, store: Store) -> None:
    last = page(client).splitlines()[-1]
    assert last == (
        "As of 2027-01-15 08:00:00 UTC: every change that Label Studio reported has been looked at."
        " All scans were last listed: 4 min ago."
    )
    store.want(3)
    assert "1 change in Label Studio still to be looked at" in page(client).splitlines()[-1]


def test_the_page_stays_one_screen_whatever_is_wrong(client: FlaskClient, store: Store) -> None:
    add_tasks(store, *range(1, 400))
    for number in range(1, 200):
        store.update_task(3, number, problem="The file\nis no\npicture.")
        annotate(store, number + 200, cancelled=True)
    publish(store, *range(200, 400))
    store.update(3, title="Liver\nCT\x1f", warnings=[f"warning {n}" for n in range(30)])
    lines = page(client).splitlines()
    assert len(lines) < 50
    assert lines[0] == "Liver CT (project 3)"
    assert "  and 194 more (?format=json lists them)" in lines


def test_the_overview_has_one_line_for_each_project(client: FlaskClient, store: Store) -> None:
    store.want(4)
    store.want(5)
    store.update(5, title="Lung", problem="No entry.")
    publish(store)
    assert client.get("/projects").text.splitlines() == [
        "3  Liver CT  attention-unet r0007",
        "4  Untitled  no queue yet",
        "5  Lung  No entry.",
    ]
    assert pages.overview([]) == "No project is connected yet.\n"
