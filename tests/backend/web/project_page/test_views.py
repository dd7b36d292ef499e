from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import numpy.typing as npt
import pytest
from flask.testing import FlaskClient
from PIL import Image
from pydantic import SecretStr

from backend.errors import NotFound, StorageError
from backend.imaging.decoder_process import Decoders
from backend.imaging.scan_cache import Scans
from backend.options import ProjectOptions
from backend.rounds.publications import ProjectPublications
from backend.settings import Settings
from backend.storage import artifacts, ledger
from backend.storage.artifacts import Artifacts, Space
from backend.storage.ledger import Ledger
from backend.storage.publications import Author
from backend.storage.records import (
    LabelRecord,
    ModelQuality,
    ReviewedScan,
    ReviewRecord,
    VolumeScore,
)
from backend.storage.store import Store, open_store
from backend.storage.tables import DraftScore, Model, Publication
from backend.web.app import create_app
from backend.web.project_page import views
from backend.web.project_page.status import Keeper
from backend.web.project_page.views import RECORDS
from model import projection
from model.evaluation import MAIN, METRICS, OTHERS
from tests.backend.fake_label_studio import CONFIG

Array = npt.NDArray[Any]

NOW = 1_800_000_000.0
IOU = replace(MAIN, name="iou", title="IoU")
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
OURS = {**BROWSER, "Sec-Fetch-Site": "same-origin"}
DONE = "Every scan is labelled: nothing is left to draw."

SCANS = "The next round starts when there are readable scans without a label."


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.clock = lambda: NOW
    store.create()
    store.projects.request_refresh(3)
    store.projects.update(3, title="Liver CT", completed=1, full_synced_at=NOW - 240)
    yield store
    store.close()


@pytest.fixture
def known(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def client(store: Store, known: Settings) -> FlaskClient:
    return create_app(known, store, lambda project, task: []).test_client()


def add_tasks(store: Store, *ids: int, **values: Any) -> None:
    store.scans.save(3, [{"id": number, "url": f"/{number}.png", **values} for number in ids])


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
    store.labels.replace(3, [task_id], [row])


def publish(store: Store, *task_ids: int, labels: int = 0, number: int = 7) -> None:
    store.publications.save(
        Publication(
            project_id=3,
            name=f"attention-unet r{number:04d}",
            round=number,
            attempt=1,
            model_key="k1",
            labels=labels,
            published=list(task_ids),
        )
    )
    store.publications.go_live(3, f"attention-unet r{number:04d}")


def page(client: FlaskClient) -> str:
    response = client.get("/projects/3")
    assert response.status_code == 200
    assert response.content_type == "text/plain; charset=utf-8"
    return response.text


def test_a_new_project_has_every_key_and_nothing_in_it(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    state = client.get("/projects/3?format=json").get_json()
    assert state == {
        **views.status(store, Artifacts(known.data_dir), 3),
        "now": "idle.",
        "then": SCANS,
        "share": None,
        "freshness": page(client).splitlines()[-1],
    }
    assert "All labels were last read: 4 min ago." in state.pop("freshness")
    assert re.fullmatch("[0-9a-f]{40}", state.pop("digest"))
    assert state == {
        "now": "idle.",
        "then": SCANS,
        "next_round": {
            "reason": "scans",
            "labels": 0,
            "needed": 1,
            "seconds": None,
            "every": 20.0,
        },
        "labels_changed": 0,
        "scans_waiting": 0,
        "last_model": None,
        "minutes": None,
        "agreement": None,
        "review": None,
        "people": {},
        "stopping": None,
        "method": ProjectOptions().method_in_use,
        "strategy": None,
        "alike": None,
        "clusters": None,
        "clusters_labelled": None,
        "sources": 0,
        "sources_labelled": 0,
        "share": None,
        "project": 3,
        "disconnected": False,
        "gone": False,
        "vanished_since": None,
        "title": "Liver CT",
        "step": None,
        "step_seconds": None,
        "progress": {},
        "pinned": None,
        "live_version": None,
        "labels_in_live": 0,
        "labels_used": 0,
        "labels_ignored": [],
        "labels_ignored_count": 0,
        "scans": 0,
        "labelled": 0,
        "complete": False,
        "prequential_dice": None,
        "drafts_compared": 0,
        "drafts_unchanged": 0,
        "changed_draft_dice": None,
        "validation_dice": None,
        "calibration_error": None,
        "selection_gain": {
            "random_fraction": 0.0,
            "begun": False,
            "chosen": 0,
            "control": 0,
            "held_out": 0,
            "repeats": 0,
            "gain": None,
        },
        "volumes": [],
        "refinement": None,
        "recipe": "",
        "requested": 1,
        "completed": 1,
        "wanted": 1,
        "done": 1,
        "synced_at": NOW - 240,
        "next": [],
        "unreadable": [],
        "unreadable_count": 0,
        "warnings": [],
        "problem": "",
        "mend": "",
        "fix": "",
        "options_problem": "",
        "events_refused_since": None,
        "round": 0,
    }
    text = page(client)
    assert text.startswith("Liver CT (project 3)\n")
    assert "Queue: none has been published yet." in text
    assert "Quality: not known yet." in text
    assert "Method: firstlight" in text
    assert DONE not in text


def test_an_unknown_project_is_not_found_and_told_how_to_be_connected(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    response = client.get("/projects/9")
    assert response.status_code == 404
    assert "connect 9" in response.get_json()["fix"]
    with pytest.raises(NotFound):
        views.status(store, Artifacts(known.data_dir), 9)


def test_only_annotations_that_can_train_count_and_the_others_say_why(
    store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, 3, 4, 5)
    store.scans.update(3, 4, problem="The file is no picture.")
    annotate(store, 1)
    annotate(store, 2, cancelled=True)
    annotate(store, 3, problem="brush region 0: it has no label")
    annotate(store, 4)
    annotate(store, 9)
    state = views.status(store, Artifacts(known.data_dir), 3)
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
    store.labels.replace(3, [1], [{"id": n, "cancelled": n == 2, **row} for n in (1, 2, 3)])
    state = views.status(store, Artifacts(known.data_dir), 3)
    assert (state["labels_used"], len(state["labels_ignored"])) == (1, 1)


def test_a_project_is_complete_when_every_readable_scan_is_labelled(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, 3)
    store.scans.update(3, 3, problem="The file is no picture.")
    annotate(store, 1)
    assert not views.status(store, Artifacts(known.data_dir), 3)["complete"]
    annotate(store, 2)
    store.publications.save_model(Model(project_id=3, key="k0", labels=2, created_at=1))
    quality = ModelQuality(validation={"dice": 0.91}, validation_scans=8)
    store.publications.save_model(
        Model(project_id=3, key="k1", labels=40, created_at=2, quality=quality)
    )
    refused = Model(project_id=3, key="k2", labels=50, created_at=3, accepted=False)
    store.publications.save_model(refused)
    assert views.status(store, Artifacts(known.data_dir), 3)["complete"]
    said = f"{DONE} The last model was trained on 40 labels, Dice 0.91 on 8 held-out scans."
    assert said in page(client)
    assert said in html(client)


def test_the_page_says_when_the_next_round_is_due_in_html_text_and_json(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, 3, 4)
    store.projects.update(3, options={"retrain_after": 6})
    publish(store, 1, 2, 3, 4)
    for task in (1, 2):
        annotate(store, task)
    write_round(known, [3, 4], reasons=["a", "b"], labels=["101@"], strategy="medoids")
    due = client.get("/projects/3?format=json").get_json()
    assert (due["next_round"]["labels"], due["next_round"]["needed"]) == (1, 6)
    assert due["then"].startswith("1 of 6 new or changed labels; next round at 6 labels, or now:")
    assert f"Now: idle. {due['then']}" in page(client)
    assert f'<p id="then" class="quiet">{due["then"]}</p>' in html(client).replace("&gt;", ">")


@pytest.mark.parametrize(("strategy", "said"), [("entropy-diversity", True), ("medoids", False)])
def test_a_queue_with_scores_says_why_they_may_rise(
    client: FlaskClient, store: Store, known: Settings, strategy: str, said: bool
) -> None:
    add_tasks(store, 1, 2)
    publish(store, 1, 2)
    write_round(known, [1, 2], reasons=["score 0.8", "score 0.9"], labels=[], strategy=strategy)
    for shown in (html(client), page(client)):
        assert ("so scores may rise down the queue" in shown) is said


def test_next_are_the_first_open_scans_of_the_live_queue_with_their_reasons(
    store: Store, known: Settings
) -> None:
    add_tasks(store, *range(1, 16))
    order = list(range(15, 0, -1))
    publish(store, *order)
    annotate(store, 15)
    add_tasks(store, 13, 15, is_labeled=True)
    rounds = known.data_dir / "projects" / "3" / "rounds"
    rounds.mkdir(parents=True)
    reasons = [f"reason of {task}" for task in order]
    (rounds / "0007.json").write_text(json.dumps({"order": order, "reasons": reasons}))
    following = views.status(store, Artifacts(known.data_dir), 3)["next"]
    assert [one["task"] for one in following] == [14, 12, 11, 10, 9, 8, 7, 6, 5, 4]
    assert [one["position"] for one in following] == list(range(1, 11))
    assert following[0]["reason"] == "reason of 14"


def test_a_labelled_scan_that_needs_another_annotator_still_waits(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, 3)
    publish(store, 1, 2, 3)
    annotate(store, 1)
    annotate(store, 2)
    add_tasks(store, 2, is_labeled=True)
    assert [one["task"] for one in views.status(store, Artifacts(known.data_dir), 3)["next"]] == [
        1,
        3,
    ]
    assert {task: one["rank"] for task, one in points_of(client).items()} == {1: 1, 2: 0, 3: 2}
    assert "2 scans waiting" in html(client)


def every_change(store: Store) -> Iterator[str]:
    """Change, one after the other, everything that a status tells of."""
    add_tasks(store, 1, 2, 3, updated_at="2026-01-01")
    yield "scans"
    annotate(store, 1)
    yield "a label"
    annotate(store, 2, cancelled=True)
    yield "a skip"
    annotate(store, 2)
    yield "a label instead"
    store.scans.update(3, 3, problem="The file is no picture.")
    yield "a scan that cannot be read"
    publish(store, 1, 2, 3, labels=2)
    yield "a live version"
    add_tasks(store, 1, is_labeled=True, updated_at="2026-01-02")
    yield "a scan that is not served any more"
    score = DraftScore(project_id=3, task_id=2, version="v", created_at="1", dice=0.5)
    store.labels.save_draft_score(score)
    yield "a compared draft"
    store.annotators.save_figures(3, LabelRecord(people={"1": 7}))
    yield "figures of the labels"
    store.projects.update(3, options={"review": True})
    store.studies.save(3, "review", "v1", {})
    yield "a review"
    scans = [
        ReviewedScan(
            task=task,
            label=artifacts.digest([f"{100 + task}@"]),
            annotations=[100 + task],
            score=0.5,
            share=0.5,
            reason="both",
            about="Lung",
            file="f",
        )
        for task in (1, 2)
    ]
    store.studies.save(3, "review", "v2", ReviewRecord(scans=scans).written())
    yield "a suspicious label"
    store.publications.confirm(3, 2, scans[1].label, Author("page"))
    yield "a confirmed label"
    store.publications.pin(3, "v1")
    yield "a pin"
    store.projects.update(3, warnings=["No encoder weights were found."])
    yield "a warning"
    store.projects.update(3, problem="The token was refused.", fix="Set a new one.")
    yield "a problem"
    store.projects.update(3, options_problem="alpha: too large.")
    yield "a wrong option"
    store.projects.update(3, title="Lung CT")
    yield "the title"
    store.rounds.of_workflow(3, "w1")
    yield "a round"
    store.scans.keep_only(3, [1, 2])
    yield "a deleted scan"
    store.projects.update(3, disconnected=True)
    yield "a disconnection"


@pytest.mark.seconds
def test_whatever_changes_is_told_by_the_next_look_and_by_another_digest(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    digests = [client.get("/projects/3?format=json").get_json()["digest"]]
    for what in every_change(store):
        state = client.get("/projects/3?format=json").get_json()
        fresh = views.status(store, Artifacts(known.data_dir), 3)
        assert {name: state[name] for name in fresh} == fresh, what
        assert state["digest"] not in digests, what
        assert f'data-digest="{state["digest"]}"' in html(client), what
        digests.append(state["digest"])


def test_a_look_at_what_did_not_change_reads_no_scan_and_yet_tells_how_far_a_step_is(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tasks(store, *range(1, 50))
    store.projects.enter(3, "train", epoch=1, epochs=5)
    digest = client.get("/projects/3?format=json").get_json()["digest"]
    monkeypatch.delattr("backend.storage.scans.Scans.all")
    monkeypatch.delattr("backend.storage.labels.Labels.annotations")
    store.clock = lambda: NOW + 8
    store.projects.update(3, progress={"epoch": 2, "epochs": 5})
    state = client.get("/projects/3?format=json").get_json()
    assert (state["now"], state["digest"]) == (
        "training the network, epoch 2 of 5, for 8 s.",
        digest,
    )
    assert "epoch 2 of 5" in page(client)


@pytest.mark.seconds
def test_how_fresh_a_page_is_is_told_by_every_look_and_by_no_digest(
    client: FlaskClient, store: Store
) -> None:
    store.projects.request_refresh(3)
    waits = client.get("/projects/3?format=json").get_json()
    assert "1 change in Label Studio still to be read" in waits["freshness"]
    store.projects.update(3, completed=2)
    store.clock = lambda: NOW + 60
    done = client.get("/projects/3?format=json").get_json()
    assert "every change that Label Studio reported has been read" in done["freshness"]
    assert "last read: 5 min ago" in done["freshness"]
    assert done["digest"] == waits["digest"]


def test_a_map_is_made_anew_for_a_change_and_not_for_every_tab(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tasks(store, 1, 2, 3)
    read, times = ledger.read, []

    def counted(*given: Any) -> Ledger:
        times.append(given)
        return read(*given)

    monkeypatch.setattr(ledger, "read", counted)
    first, second = points_of(client), points_of(client)
    assert (first, len(times)) == (second, 1)
    for number, what in enumerate(every_change(store), start=2):
        points_of(client)
        assert len(times) == number, what


class Makes:
    """Makes something of a project, and holds one project's making until it is let go."""

    def __init__(self, held: int = 0) -> None:
        self.made: list[int] = []
        self.held = held
        self.started, self.let_go = threading.Event(), threading.Event()

    def __call__(self, project_id: int) -> int:
        self.made.append(project_id)
        if project_id == self.held:
            self.started.set()
            assert self.let_go.wait(30)
        return project_id


def test_nobody_waits_for_what_is_made_of_another_project(store: Store) -> None:
    store.projects.request_refresh(4)
    makes = Makes(held=3)
    keeper = Keeper(store, makes, most=8)
    slow = threading.Thread(target=lambda: keeper.of(store.projects.known(3)))
    quick = threading.Thread(target=lambda: keeper.of(store.projects.known(4)))
    slow.start()
    assert makes.started.wait(30)
    quick.start()
    quick.join(10)
    waited = quick.is_alive()
    makes.let_go.set()
    for thread in (slow, quick):
        thread.join(30)
    assert not waited


def test_who_asks_while_something_is_made_takes_that(store: Store) -> None:
    makes = Makes(held=3)
    keeper = Keeper(store, makes, most=8)
    both = [threading.Thread(target=lambda: keeper.of(store.projects.known(3))) for _ in range(2)]
    for thread in both:
        thread.start()
    assert makes.started.wait(30)
    makes.let_go.set()
    for thread in both:
        thread.join(30)
    assert makes.made == [3]


def test_what_was_not_asked_for_the_longest_is_dropped_first(store: Store) -> None:
    makes = Makes()
    keeper = Keeper(store, makes, most=2)
    store.projects.request_refresh(4)
    store.projects.request_refresh(5)
    for number in (3, 4, 3, 5, 3, 4):
        assert keeper.of(store.projects.known(number)) == number
    assert makes.made == [3, 4, 5, 4]


@pytest.mark.parametrize("path", ["/projects/3", "/projects/3/map.json"])
def test_a_page_reads_the_scans_of_its_project_once(
    client: FlaskClient,
    store: Store,
    known: Settings,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record_rounds(store, known)
    read, times = ledger.read, []

    def counted(*given: Any) -> Ledger:
        times.append(given)
        return read(*given)

    monkeypatch.setattr(ledger, "read", counted)
    assert client.get(path, headers=BROWSER).status_code == 200
    assert len(times) == 1


def test_long_lists_are_cut_and_their_numbers_told(client: FlaskClient, store: Store) -> None:
    add_tasks(store, *range(1, 400))
    for number in range(1, 151):
        store.scans.update(3, number, problem="The file is no picture.")
        annotate(store, number + 200, cancelled=True)
    state = client.get("/projects/3?format=json").get_json()
    for name in ("unreadable", "labels_ignored"):
        assert (len(state[name]), state[f"{name}_count"]) == (100, 150)
    assert page(client).count("  and 145 more (?format=json lists the first 100)") == 2
    shown = html(client)
    assert shown.count('<span class="quiet">150</span>') == 2
    assert shown.count("and 50 more") == 2


# -- a project that is not connected --------------------------------------------------------------


def test_a_project_that_was_disconnected_says_so_and_offers_no_way_back(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    store.publications.pin(3, "v1")
    store.projects.update(3, disconnected=True)
    shown = html(client)
    assert "This project is not connected" in shown
    assert "python -m backend connect 3" in shown
    assert re.findall('<button id="([^"]*)"', shown) == ["download"], "labels stay for export"
    assert "This project is not connected" in page(client)
    assert "not connected" in html(client, "/projects")
    assert client.get("/projects").text == "3  Liver CT  not connected\n"


@pytest.mark.parametrize("path", ["rollback", "resume"])
def test_a_project_that_was_disconnected_is_not_woken_by_a_button(
    client: FlaskClient, store: Store, known: Settings, path: str
) -> None:
    record_rounds(store, known)
    store.publications.pin(3, "v1")
    store.projects.update(3, disconnected=True)
    response = client.post(f"/projects/3/{path}", data={"version": "v1"}, headers=OURS)
    assert response.status_code == 409
    assert "Project 3 is not connected" in response.text
    assert (store.projects.known(3).disconnected, store.publications.pinned(3)) == (True, "v1")


@pytest.mark.parametrize("shared", ["group", "pixels"])
def test_a_draft_on_a_patient_that_its_model_was_trained_on_is_no_measure_of_quality(
    store: Store, known: Settings, shared: str
) -> None:
    add_tasks(store, 1, 2, **{shared: "one patient"})
    add_tasks(store, 3)
    store.publications.save_model(
        Model(project_id=3, key="k1", labels=2, created_at=1, trained_on=[1, 99])
    )
    publish(store, labels=2)
    for task, dice in ((2, 0.9), (3, 0.5)):
        store.labels.save_draft_score(
            DraftScore(
                project_id=3, task_id=task, version="attention-unet r0007", created_at="", dice=dice
            )
        )
    assert views.status(store, Artifacts(known.data_dir), 3)["prequential_dice"] == 0.5


def test_next_does_without_the_file_of_reasons(store: Store, known: Settings) -> None:
    add_tasks(store, 1)
    publish(store, 1)
    assert views.status(store, Artifacts(known.data_dir), 3)["next"] == [
        {"task": 1, "position": 1, "reason": ""}
    ]


def test_quality_is_of_the_last_five_drafts_and_of_the_live_model(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    for number, dice in enumerate([0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9]):
        store.labels.save_draft_score(
            DraftScore(project_id=3, task_id=number, version="v", created_at=f"{number}", dice=dice)
        )
    publish(store, labels=12)
    assert views.status(store, Artifacts(known.data_dir), 3)["validation_dice"] is None
    store.publications.save_model(
        Model(
            project_id=3, key="k1", labels=12, created_at=1,
            quality=ModelQuality(
                validation={"dice": 0.81},
                calibration_error=0.034,
                volumes=[VolumeScore(volume="v-1", judged=2, slices=5, scores={"dice": 0.75})],
            ),
        )
    )  # fmt: skip
    state = views.status(store, Artifacts(known.data_dir), 3)
    assert state["prequential_dice"] == pytest.approx(0.7)
    assert (state["validation_dice"], state["labels_in_live"]) == (0.81, 12)
    text = page(client)
    assert "Dice 0.70" in text
    assert "is 0.81" in text
    assert "v-1: Dice 0.75 (2 of 5 slices)" in text
    assert "v-1: Dice 0.75" in client.get("/projects/3", headers=BROWSER).text
    assert state["volumes"][0]["scores"] == {"dice": 0.75}
    assert "the model's probabilities are off by 0.03 there, on average" in text
    assert "it was made from 12 labelled scans." in text


def test_drafts_submitted_unchanged_are_told_beside_the_dice_wherever_it_is_shown(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    for task, dice in ((1, 1.0), (3, 1.0)):
        row = {"task_id": task, "version": "v2", "created_at": f"2{task}", "dice": dice}
        store.labels.save_draft_score(DraftScore(project_id=3, **row))
    state = client.get("/projects/3?format=json").get_json()
    assert state["prequential_dice"] == pytest.approx(0.933, abs=0.001)
    figures = state["drafts_unchanged"], state["drafts_compared"], state["changed_draft_dice"]
    assert figures == (2, 3, 0.8)
    said = "2 of 3 submitted unchanged, Dice 0.80 for the changed"
    assert said in page(client)
    shown = html(client)
    assert f"<small>{said}</small>" in shown
    line_of_v2 = shown[shown.index('<th scope="row">v2') :]
    cells = re.findall(r'<td class="n">(.*?)</td>', line_of_v2)[2:5]
    assert cells == ["0.933", "2 of 3", "0.800"]
    curve = client.get("/projects/3/map.json").get_json()["curve"]
    assert [one["unchanged"] for one in curve["drafts"]] == [False, True, True]


def test_the_page_says_what_is_going_on_and_for_how_long(client: FlaskClient, store: Store) -> None:
    store.projects.enter(3, "train")
    store.clock = lambda: NOW + 12
    state = client.get("/projects/3?format=json").get_json()
    assert (state["step"], state["step_seconds"], state["progress"]) == ("train", 12, {})
    assert "Now: training the network, for 12 s." in page(client)
    store.projects.enter(3, "tidying")
    assert "Now: tidying, for 0 s." in page(client)


def test_the_page_says_in_words_how_far_a_step_is(client: FlaskClient, store: Store) -> None:
    store.projects.enter(3, "embed", done=5, total=64)
    assert "Now: computing embeddings of new scans, 5 of 64 scans, for 0 s." in page(client)
    done = {"epoch": 3, "epochs": 13, "batch": 27, "batches": 130, "loss": 0.4123}
    store.projects.enter(3, "train", **done)
    assert "Now: training the network, epoch 3 of 13, batch 27 of 130, loss 0.41, for 0 s." in page(
        client
    )
    store.projects.enter(3, "train", **done, dice=0.8, seconds_left=240)
    assert "loss 0.41, Dice 0.80 on held-out scans, about 4 min left, for 0 s." in page(client)


def test_the_page_says_every_problem_and_its_mend(client: FlaskClient, store: Store) -> None:
    store.projects.update(
        3,
        problem="The token was refused.",
        fix="Set a new one.",
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
        "As of 2027-01-15 08:00:00 UTC: every change that Label Studio reported has been read."
        " All labels were last read: 4 min ago."
    )
    store.projects.request_refresh(3)
    assert "1 change in Label Studio still to be read" in page(client).splitlines()[-1]


@pytest.mark.seconds
def test_the_page_stays_one_screen_whatever_is_wrong(client: FlaskClient, store: Store) -> None:
    add_tasks(store, *range(1, 400))
    for number in range(1, 200):
        store.scans.update(3, number, problem="The file\nis no\npicture.")
        annotate(store, number + 200, cancelled=True)
    publish(store, *range(200, 400))
    store.projects.update(3, title="Liver\nCT\x1f", warnings=[f"warning {n}" for n in range(30)])
    lines = page(client).splitlines()
    assert len(lines) < 50
    assert lines[0] == "Liver CT (project 3)"
    assert "  and 194 more (?format=json lists the first 100)" in lines
    assert "  and 25 more (?format=json lists them)" in lines, "warnings are listed in full"


def test_the_overview_without_a_project_says_so(client: FlaskClient, store: Store) -> None:
    store.projects.forget(3)
    assert client.get("/projects").text == "No project is connected yet.\n"
    assert "No project is connected yet" in client.get("/projects", headers=BROWSER).text


def test_the_overview_has_one_line_for_each_project(client: FlaskClient, store: Store) -> None:
    store.projects.request_refresh(4)
    store.projects.request_refresh(5)
    store.projects.update(5, title="Lung", problem="No entry.")
    publish(store)
    assert client.get("/projects").text.splitlines() == [
        "3  Liver CT  attention-unet r0007",
        "4  Untitled  no queue yet",
        "5  Lung  No entry.",
    ]


# -- for browsers ---------------------------------------------------------------------------------


def html(client: FlaskClient, path: str = "/projects/3") -> str:
    response = client.get(path, headers=BROWSER)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    return response.text


@pytest.mark.parametrize("path", ["/projects", "/projects/3"])
def test_a_browser_gets_html_a_script_json_and_everything_else_text(
    client: FlaskClient, path: str
) -> None:
    kinds = {
        "text/html": [BROWSER],
        "application/json": [{"Accept": "application/json"}],
        "text/plain": [{}, {"Accept": "*/*"}, {"Accept": "image/png"}],
    }
    for kind, headers in kinds.items():
        assert {client.get(path, headers=one).mimetype for one in headers} == {kind}
    for name, kind in (("html", "text/html"), ("json", "application/json"), ("text", "text/plain")):
        assert client.get(f"{path}?format={name}", headers=BROWSER).mimetype == kind


def test_an_unknown_format_is_refused_with_the_known_ones(client: FlaskClient) -> None:
    response = client.get("/projects/3?format=xml")
    assert response.status_code == 400
    assert response.get_json()["error"] == "format is 'xml': expected 'html', 'text' or 'json'."


def test_whatever_a_user_typed_is_escaped(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    evil = "<script>alert(1)</script>\" onload='x'"
    add_tasks(store, 1, 2, 3)
    store.scans.update(3, 2, problem=evil)
    annotate(store, 3, problem=evil)
    publish(store, 1)
    write_round(known, [1], reasons=[evil])
    store.projects.update(
        3, title=evil, warnings=[evil], problem=evil, fix=evil, options_problem=evil
    )
    for page in (html(client), html(client, "/projects")):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34; onload=&#39;x&#39;" in page


def test_a_page_loads_nothing_from_elsewhere_and_runs_no_code_but_ours(
    client: FlaskClient, store: Store
) -> None:
    page = client.get("/projects/3", headers=BROWSER)
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; script-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert (page.headers["X-Content-Type-Options"], page.headers["Referrer-Policy"]) == (
        "nosniff",
        "same-origin",  # with no-referrer, browsers send `Origin: null` with the forms
    )
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    outside = [one for one in loaded if not one.startswith(("/", "?", "#"))]
    assert outside == ["http://127.0.0.1:8080/projects/3/data"], "the one link to Label Studio"
    assert not re.search(r"<script(?! src)|<style| style=| on[a-z]+=", page.text)


@pytest.mark.seconds
def test_only_a_map_of_very_many_scans_may_compile_its_drawing_code(
    client: FlaskClient, store: Store
) -> None:
    add_tasks(store, *range(1, views.MANY + 2))
    page = client.get("/projects/3", headers=BROWSER)
    assert "data-many" in page.text
    assert "'unsafe-eval'" in page.headers["Content-Security-Policy"]


def test_files_of_the_page_may_be_kept_for_they_change_their_address(client: FlaskClient) -> None:
    loaded = set(re.findall(r'"(/static/[^"]*)"', html(client)))
    names = {re.sub(r"\?v=[0-9a-f]{12}$", "", one) for one in loaded}
    assert names == {f"/static/{n}" for n in ("plotly.min.js", "page.js", "page.css", "icon.svg")}
    for one in loaded:
        response = client.get(one)
        assert response.status_code == 200
        assert "immutable" in response.headers["Cache-Control"]
        small = client.get(one, headers={"Accept-Encoding": "gzip"})
        if small.headers.get("Content-Encoding"):
            assert len(small.data) < len(response.data) / 2


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2Fpages.py", "../pages.py", "page.js%00", "%2Fetc%2Fpasswd"]
)
def test_no_other_file_is_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_every_route_of_the_pages_asks_for_the_password(store: Store, tmp_path: Path) -> None:
    closed = Settings(
        data_dir=tmp_path, basic_auth_user="ada", basic_auth_pass=SecretStr("lovelace")
    )
    app = create_app(closed, store, lambda project, task: [])
    found = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("pages.")]
    assert len(found) >= 8
    for rule in found:
        path = re.sub("<[^>]*>", "3", str(rule))
        (method,) = rule.methods - {"HEAD", "OPTIONS"} if rule.methods else {"GET"}
        assert app.test_client().open(path, method=method).status_code == 401


def test_the_queue_is_a_list_of_links_in_pages_of_fifty(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    order = list(range(120, 0, -1))
    add_tasks(store, *order)
    publish(store, *order)
    write_round(known, order, reasons=[f"reason of {task}" for task in order])
    first, second = html(client), html(client, "/projects/3?from=51")
    links = re.compile(r'href="http://127.0.0.1:8080/projects/3/data\?task=(\d+)"')
    assert [int(one) for one in links.findall(first)] == order[:50]
    assert [int(one) for one in links.findall(second)] == order[50:100]
    assert "reason of 120" in first
    assert "120 scans waiting" in first
    assert 'src="/projects/3/scans/120.png"' in first


@pytest.mark.parametrize(
    ("waiting", "start", "first", "nav"),
    [(50, 51, 1, False), (60, 101, 51, True), (100, 101, 51, True), (101, 999, 101, True)],
)
def test_a_part_that_the_queue_has_no_more_is_the_last_one_that_has_scans(
    client: FlaskClient, store: Store, waiting: int, start: int, first: int, nav: bool
) -> None:
    add_tasks(store, *range(1, waiting + 1))
    publish(store, *range(1, waiting + 1))
    shown = html(client, f"/projects/3?from={start}")
    assert f'<ol class="queue" start="{first}"' in shown
    assert f'id="task-{waiting}"' in shown
    assert (">Earlier</a>" in shown) == nav


def test_a_queue_in_which_nothing_waits_says_so(client: FlaskClient, store: Store) -> None:
    add_tasks(store, 1, is_labeled=True)
    publish(store, 1)
    assert "No scan is waiting." in html(client, "/projects/3?from=51")


@pytest.mark.parametrize(
    ("scans", "row", "said"),
    [
        (0, {}, "no scan is known yet"),
        (2, {}, "The first queue is being made"),
        (2, {"problem": "The token was refused."}, "because of the problem above"),
        (2, {"disconnected": True}, "because the project is not connected"),
    ],
)
def test_before_the_first_queue_the_page_says_what_it_waits_for(
    client: FlaskClient, store: Store, scans: int, row: dict[str, Any], said: str
) -> None:
    add_tasks(store, *range(1, scans + 1))
    store.projects.update(3, **{"title": "New", **row})
    shown = html(client)
    assert said in shown
    assert "0 scans waiting" not in shown


@pytest.mark.parametrize("start", ["-5", "0", "x", "100000", "9" * 5000])
def test_an_odd_part_of_the_queue_is_no_error(
    client: FlaskClient, store: Store, start: str
) -> None:
    add_tasks(store, 1)
    publish(store, 1)
    assert 'id="task-1"' in html(client, f"/projects/3?from={start}")


def test_the_page_tells_how_many_scans_look_like_a_labelled_one(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2)
    publish(store, 1, 2)
    assert "<meter" not in html(client), "an early release did not measure it"
    assert "Coverage:" not in page(client)
    write_round(known, [1, 2], reasons=["a", "b"], clusters=9, alike=0.625, clusters_labelled=7)
    store.projects.update(3, completed=2)
    found = html(client)
    assert 'value="0.625"' in found
    assert "62 %" in found
    assert "7 of 9 clusters with a label" in found
    said = "Coverage: 62% of the scans look like a labelled scan; 7 of 9 clusters with a label."
    assert said in page(client).splitlines()


def test_the_page_tells_how_many_sources_have_a_label(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, source="Ward 7")
    add_tasks(store, 3, source="Clinic")
    add_tasks(store, 4)
    annotate(store, 2)
    annotate(store, 4)
    publish(store, 1, 3)
    write_round(known, [1, 3], reasons=["a", "b"], clusters=9, alike=0.625, clusters_labelled=7)
    assert "7 of 9 clusters and 1 of 2 sources with a label" in html(client)


# -- the map --------------------------------------------------------------------------------------


def write_round(
    known: Settings, order: list[int], *, reasons: list[str], number: int = 7, **more: Any
) -> None:
    record = {
        "order": order,
        "reasons": reasons,
        "encoder": "pixels",
        "options": {"projection": "pca", "seed": 0, "cold_start_budget": 2},
        "scans": {task: {"cluster": task % 2, "entropy": 0.25} for task in order},
        **more,
    }
    Artifacts(known.data_dir).of(3).write_json(artifacts.round_name(number), record)


def draw_map(store: Store, known: Settings, fitted: list[int], new: list[int]) -> Array:
    """Fit a map as a round does, on embeddings of some scans; others come later."""
    folder = known.project_folder(3)
    embeddings = np.random.default_rng(0).normal(size=(len(fitted) + len(new), 6))
    rows = {"a.npy": (fitted, embeddings[: len(fitted)]), "b.npy": (new, embeddings[len(fitted) :])}
    for name, (tasks, values) in rows.items():
        artifacts.write_array(folder / "embeddings" / name, values.astype(np.float32))
        store.embeddings.save(3, "pixels", name, tasks)
    found = projection.fit(embeddings[: len(fitted)].astype(np.float32), method="pca")
    space = Space("pixels", "pca", 0)
    scans = [artifacts.scan_name("a.npy", row) for row in range(len(fitted))]
    content = {"scans": np.array(scans, bytes), **vars(found)}
    path = folder / artifacts.map_name(space)
    artifacts.write(path, lambda file: np.savez(file, **content))
    path = folder / artifacts.clusters_name(space, scans, 2)
    clusters = np.array(fitted) % 2
    artifacts.write(path, lambda file: np.savez(file, clusters=clusters))
    places: Array = np.vstack(
        [found.coordinates, found.transform(embeddings[len(fitted) :].astype(np.float32))]
    )
    return places


def points_of(client: FlaskClient) -> dict[int, dict[str, Any]]:
    """The columns of the map, as one record for each scan."""
    found = client.get("/projects/3/map.json").get_json()
    names = ("x", "y", "cluster", "state", "rank", "why")
    return {
        task: {name: found[name][row] for name in names}
        | {"state": found["states"][found["state"][row]]}
        for row, task in enumerate(found["task"])
    }


def test_the_map_has_one_point_for_every_scan_with_its_state_rank_and_reason(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, *range(1, 31))
    for task in (1, 2, 3, 4):
        annotate(store, task, cancelled=task == 3, problem="no label" if task == 4 else "")
    add_tasks(store, 4, is_labeled=True)
    store.labels.save_splits(3, {1: False, 2: True})
    store.scans.update(3, 30, problem="The file is no picture.")
    order = [*range(5, 30), 3, 30]
    publish(store, *order)
    write_round(known, order, reasons=[f"reason of {task}" for task in order])
    draw_map(store, known, list(range(1, 28)), [28, 29])
    found = points_of(client)
    assert list(found) == list(range(1, 31))
    states = {task: one["state"] for task, one in found.items()}
    assert {task: states[task] for task in (1, 2, 3, 4, 30)} == {
        1: "labelled", 2: "validation", 3: "skipped", 4: "unused", 30: "unreadable",
    }  # fmt: skip
    assert [task for task, state in states.items() if state == "next"] == list(range(5, 15))
    assert [task for task, state in states.items() if state == "queued"] == list(range(15, 30))
    assert [found[task]["rank"] for task in order] == list(range(1, 28))
    assert (found[5]["why"], found[30]["why"]) == ("reason of 5", "The file is no picture.")


def test_points_lie_as_on_the_fitted_map_and_what_has_no_place_lies_below(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    tasks = list(range(1, 13))
    add_tasks(store, *tasks)
    publish(store, *tasks)
    write_round(known, tasks, reasons=[""] * 12)
    places = draw_map(store, known, tasks[:8], tasks[8:11])
    found = points_of(client)
    drawn = np.array([[found[task]["x"], found[task]["y"]] for task in tasks[:11]])
    scale = (places[1] - places[0]) / (drawn[1] - drawn[0])
    assert scale[0] == pytest.approx(scale[1], rel=0.01), "both axes alike"
    assert np.allclose((drawn - drawn[0]) * scale, places - places[0], atol=0.01)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert found[12]["y"] < 0
    assert [found[task]["cluster"] for task in tasks[:8]] == [task % 2 for task in tasks[:8]]


def test_a_map_in_more_than_two_dimensions_is_drawn_along_its_principal_axes() -> None:
    from backend.web.project_page.map_view import _flat

    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    wide = rng.normal(size=(50, 9)) * ([20, 5] + [0.01] * 7) @ axes
    flat = np.array(list(_flat(dict(enumerate(wide))).values()))
    assert flat.shape == (50, 2)
    assert np.allclose(np.linalg.norm(flat[0] - flat, axis=1),
                       np.linalg.norm(wide[0] - wide, axis=1), atol=0.2)  # fmt: skip


def test_without_a_round_or_with_a_damaged_map_every_scan_still_has_a_point(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1, 2, 3)
    assert [one["y"] < 0 for one in points_of(client).values()] == [True] * 3
    publish(store, 1, 2, 3)
    write_round(known, [1, 2, 3], reasons=["", "", ""])
    draw_map(store, known, [1, 2, 3], [])
    [path] = (known.project_folder(3) / "maps").iterdir()
    path.write_bytes(path.read_bytes()[:200])
    found = points_of(client)
    assert [one["y"] < 0 for one in found.values()] == [True] * 3
    assert [one["cluster"] for one in found.values()] == [1, 0, 1], "as the round recorded them"


# -- thumbnails -----------------------------------------------------------------------------------


def keep_scan(known: Settings, task: int, image: Array) -> None:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    folder = known.project_folder(3)
    scans = Scans(
        lambda url, task: file.getvalue(), folder, Decoders(), longest=256, max_pixels=10**6
    )
    scans.get(task, f"/{task}.png")


def test_a_thumbnail_is_the_kept_scan_small(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1)
    image = np.zeros((400, 200), np.uint8)
    image[:200] = 255
    keep_scan(known, 1, image)
    response = client.get("/projects/3/scans/1.png")
    assert (response.status_code, response.mimetype) == (200, "image/png")
    assert response.headers["Cache-Control"].startswith("private")
    small = np.asarray(Image.open(BytesIO(response.data)))
    assert small.shape == (192, 96)
    assert (small[:90] == 255).all()
    assert (small[102:] == 0).all()


@pytest.mark.parametrize(
    "name", ["2", "9", "0", "-1", "1.0", "x", "..%2F..%2F1", "1/../1", "9" * 40, "%00", "\u0663"]
)
def test_a_scan_that_is_not_kept_or_not_known_has_no_thumbnail(
    client: FlaskClient, store: Store, known: Settings, name: str
) -> None:
    add_tasks(store, 1, 2)
    keep_scan(known, 1, np.zeros((8, 8), np.uint8))
    response = client.get(f"/projects/3/scans/{name}.png")
    assert response.status_code == 404
    assert response.get_json()["error"]


def test_a_scan_of_a_former_address_is_not_shown(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    add_tasks(store, 1)
    keep_scan(known, 1, np.zeros((8, 8), np.uint8))
    store.scans.save(3, [{"id": 1, "url": "/another.png"}])
    assert client.get("/projects/3/scans/1.png").status_code == 404


# -- versions and rounds --------------------------------------------------------------------------


def record_rounds(store: Store, known: Settings) -> None:
    """A cold start, a trained round, and one that ran while the first was pinned."""
    add_tasks(store, 1, 2, 3)
    for number, (key, labels) in enumerate([("", 0), ("k1", 2), ("", 3)], start=1):
        store.rounds.of_workflow(3, f"w{number}")
        order = [3, 2, 1]
        write_round(known, order, reasons=["a", "b", "c"], number=number, strategy="medoids",
                    phase="cold-start", labels=["1@"], silhouette=0.5)  # fmt: skip
        if key:
            store.rounds.add_seconds(3, number, "train", 12.5)
            store.publications.save_model(
                Model(
                    project_id=3,
                    key=key,
                    labels=2,
                    created_at=1,
                    quality=ModelQuality(validation={"dice": 0.9}),
                )
            )
        name = f"v{number}"
        store.publications.save(
            Publication(
                project_id=3,
                name=name,
                round=number,
                attempt=1,
                model_key=key,
                labels=labels,
                published=order,
                created_at=number,
            )
        )
        store.clock = lambda number=number: NOW + number  # type: ignore[misc]
        store.publications.go_live(3, name)
        store.rounds.close(3, number, name)
    store.labels.save_draft_score(
        DraftScore(project_id=3, task_id=2, version="v2", created_at="1", dice=0.8)
    )


def test_the_audit_record_has_every_round_with_what_it_decided_and_why(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    response = client.get("/projects/3/rounds.json")
    assert response.mimetype == "application/json"
    found = json.loads(response.text)
    assert (found["project"], found["title"]) == (3, "Liver CT")
    cold, trained, pinned = found["rounds"]
    assert [one["round"] for one in found["rounds"]] == [1, 2, 3]
    assert (cold["strategy"], cold["options"]["seed"], cold["silhouette"]) == ("medoids", 0, 0.5)
    assert cold["scans"][0] == {
        "task": 3, "position": 1, "reason": "a", "cluster": 1, "entropy": 0.25,
    }  # fmt: skip
    assert trained["seconds"] == {"train": 12.5}
    [version] = trained["versions"]
    assert (version["name"], version["quality"]) == ("v2", {"validation_dice": 0.9})
    assert version["drafts"] == [{"task": 2, "dice": 0.8, "unchanged": False, "counts": True}]
    assert [one["pinned"] for one in (cold, trained, pinned)] == [False, False, True]


def test_one_round_of_the_audit_record_can_be_asked_for(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    found = json.loads(client.get("/projects/3/rounds.json?round=2").text)
    assert [one["round"] for one in found["rounds"]] == [2]


@pytest.mark.seconds
@pytest.mark.parametrize("asked", ["", "abc", "2.0", "-1", " 2", "\u0662", "9" * 5000])
def test_a_round_that_is_no_number_is_refused_with_a_sentence(
    client: FlaskClient, store: Store, known: Settings, asked: str
) -> None:
    record_rounds(store, known)
    response = client.get("/projects/3/rounds.json", query_string={"round": asked})
    assert response.status_code == 400
    said = f"round is {asked[:40]!r}: expected the number of a round."
    assert response.get_json()["error"] == said


@pytest.mark.parametrize("number", [0, 4, 99999999999])
def test_a_round_that_never_was_is_not_found(
    client: FlaskClient, store: Store, known: Settings, number: int
) -> None:
    record_rounds(store, known)
    response = client.get(f"/projects/3/rounds.json?round={number}")
    assert response.status_code == 404
    assert response.get_json()["error"] == f"Project 3 has no round {number}."


def test_a_round_that_failed_or_lost_its_file_is_recorded_with_what_is_known(
    client: FlaskClient, store: Store
) -> None:
    store.rounds.of_workflow(3, "w1")
    store.rounds.abort(3, "Label Studio does not answer.")
    [found] = json.loads(client.get("/projects/3/rounds.json").text)["rounds"]
    assert (found["error"], found["scans"]) == ("Label Studio does not answer.", [])
    assert client.get("/projects/9/rounds.json").status_code == 404


def test_a_new_metric_is_on_the_curve_in_the_table_and_on_the_page_by_itself(
    client: FlaskClient, store: Store, known: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "iou", IOU)
    monkeypatch.setattr(views, "OTHERS", [*OTHERS, IOU])
    record_rounds(store, known)
    model = store.publications.models(3)[-1]
    model.quality = model.quality.changed(validation={"dice": 0.9, "iou": 0.8})
    store.publications.save_model(model)
    [curve] = client.get("/projects/3/map.json").get_json()["curve"]["models"]
    assert (curve["dice"], curve["hd95"], curve["iou"]) == (0.9, None, 0.8)
    shown = html(client)
    assert '<th scope="col" class="n">IoU</th>' in shown
    assert "HD95</th>" not in shown
    assert '{"key": "iou", "title": "IoU", "unit": ""}' in shown


def test_a_record_of_another_length_than_its_reasons_is_told_to_its_end(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    for number, reasons in enumerate((["a"], ["a", "b", "c"]), start=1):
        store.rounds.of_workflow(3, f"w{number}")
        write_round(known, [5, 4], reasons=reasons, number=number)
    short, long = json.loads(client.get("/projects/3/rounds.json").text)["rounds"]
    assert [(one["task"], one["reason"]) for one in short["scans"]] == [(5, "a"), (4, "")]
    assert [(one["task"], one["reason"]) for one in long["scans"]] == [(5, "a"), (4, "b")]


@pytest.mark.parametrize(
    "name",
    [
        "rounds.Rounds.all",
        "publications.Publications.all",
        "publications.Publications.models",
        "labels.Labels.draft_scores",
    ],
)
def test_a_database_that_does_not_answer_costs_the_record_no_half_document(
    client: FlaskClient, store: Store, known: Settings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_rounds(store, known)

    def locked(*_: object) -> None:
        raise StorageError("The database did not answer.")

    monkeypatch.setattr(f"backend.storage.{name}", locked)
    response = client.get("/projects/3/rounds.json")
    assert (response.status_code, response.get_json()["error"]) == (
        503,
        "The database did not answer.",
    )


def test_the_learning_curve_has_models_and_drafts_over_labels(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    curve = client.get("/projects/3/map.json").get_json()["curve"]
    assert curve["models"] == [
        {"labels": 2, "version": "v2", "accepted": True, "dice": 0.9, "hd95": None}
    ]
    assert curve["drafts"] == [{"labels": 3, "dice": 0.8, "unchanged": False, "task": 2}]


def test_versions_are_listed_with_a_way_back_to_those_whose_weights_are_there(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    page = html(client)
    assert page.index("v3") < page.index("v2") < page.index("v1")
    assert "made while pinned" in page
    offered = re.compile(r'name="version" value="([^"]*)"')
    assert offered.findall(page) == ["v1"], "the weights of v2 are gone"
    keep_weights(known, "k1")
    assert offered.findall(html(client)) == ["v2", "v1"]
    store.projects.update(3, label_config=CONFIG)
    assert offered.findall(html(client)) == ["v1"], "v2 was trained for other labels"


def publish_often(store: Store, times: int) -> None:
    """Let a version go live after the other, each a second later."""
    for number in range(1, times + 1):
        store.clock = lambda number=number: NOW + number  # type: ignore[misc]
        publish(store, number=number)


def versions_on(page: str) -> list[int]:
    """The rounds of the versions that a page lists, in its order."""
    return [int(one) for one in re.findall(r'<th scope="row">attention-unet r(\d+)', page)]


def test_the_newest_versions_are_listed_and_all_of_them_for_whoever_asks(
    client: FlaskClient, store: Store
) -> None:
    publish_often(store, 100)
    newest, every = html(client), html(client, "/projects/3?versions=all")
    assert versions_on(newest) == list(range(100, 70, -1))
    assert "30 of 100 versions are listed." in newest
    assert 'href="/projects/3?from=1&amp;versions=all#versions"' in newest
    assert versions_on(every) == list(range(100, 0, -1))
    assert 'href="/projects/3?from=1#versions"' in every


def test_a_pinned_version_is_listed_however_old_it_is(client: FlaskClient, store: Store) -> None:
    publish_often(store, 40)
    store.publications.pin(3, "attention-unet r0002")
    assert versions_on(html(client)) == [*range(40, 10, -1), 2]


def test_a_live_version_is_listed_though_many_were_live_after_it(
    client: FlaskClient, store: Store
) -> None:
    """As after a clock that was set back."""
    publish_often(store, 40)
    store.clock = lambda: NOW - 1000
    publish(store, number=41)
    assert versions_on(html(client)) == [*range(40, 10, -1), 41]


@pytest.mark.parametrize("path", ["/projects/3", "/projects/3?versions=all"])
def test_few_versions_are_listed_without_a_way_to_more(
    client: FlaskClient, store: Store, path: str
) -> None:
    publish_often(store, 30)
    assert len(versions_on(html(client, path))) == 30
    assert "versions are listed" not in html(client, path)


def test_parts_of_the_queue_and_of_the_versions_are_kept_by_each_others_links(
    client: FlaskClient, store: Store
) -> None:
    add_tasks(store, *range(1, 151))
    publish_often(store, 40)
    publish(store, *range(1, 151), number=41)
    plain, every = (html(client, f"/projects/3?from=51{more}") for more in ("", "&versions=all"))
    for link in ("from=51&amp;versions=all#versions", "from=1#queue", "from=101#queue"):
        assert f'href="/projects/3?{link}"' in plain
    for link in ("from=51#versions", "from=1&amp;versions=all#queue"):
        assert f'href="/projects/3?{link}"' in every


def keep_weights(known: Settings, key: str) -> None:
    path = known.project_folder(3) / artifacts.weights_name(key)
    path.parent.mkdir(parents=True)
    path.touch()


def test_the_button_does_what_the_command_rollback_does_and_resume_ends_it(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    before = store.projects.known(3).requested
    response = client.post("/projects/3/rollback", data={"version": "v1"}, headers=OURS)
    assert (response.status_code, response.location) == (303, "/projects/3#versions")
    assert (store.publications.pinned(3), store.projects.known(3).requested) == ("v1", before + 1)
    assert "Pinned to v1." in html(client)
    assert client.post("/projects/3/resume", headers=OURS).status_code == 303
    assert store.publications.pinned(3) == ""


def test_every_action_is_kept_with_the_person_that_a_trusted_proxy_names(
    store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    trusting = known.model_copy(
        update={
            "trusted_user_header": "X-User",
            "trusted_proxies": (ip_network("10.0.0.7"),),
        }
    )
    client = create_app(trusting, store, lambda project, task: []).test_client()
    for path, caller in (("rollback", "10.0.0.7"), ("resume", "10.0.0.8")):
        response = client.post(
            f"/projects/3/{path}",
            data={"version": "v1"},
            headers={**OURS, "X-User": "<b>ada</b>"},
            environ_base={"REMOTE_ADDR": caller},
        )
        assert response.status_code == 303
    project = store.projects.known(3)
    ProjectPublications(store, project, Artifacts(known.data_dir).of(3)).pin("v1")
    kept = client.get("/projects/3/rounds.json").get_json()["actions"]
    at = {"at": NOW + 3}
    assert kept == [
        {
            **at,
            "action": "rollback",
            "version": "v1",
            "task": None,
            "origin": "page",
            "person": "<b>ada</b>",
        },
        {**at, "action": "resume", "version": None, "task": None, "origin": "page", "person": None},
        {
            **at,
            "action": "rollback",
            "version": "v1",
            "task": None,
            "origin": "command",
            "person": None,
        },
    ]
    shown = html(client)
    lines = re.findall(r"<li>2027-01-15 08:00 UTC: (.*?)</li>", shown)
    assert lines == [
        "a person went back to v1 with a command.",
        "a person let rounds train again on this page.",
        "&lt;b&gt;ada&lt;/b&gt; went back to v1 on this page.",
    ]
    store.projects.forget(3)
    assert store.publications.actions(3) == []


def test_a_refused_action_is_not_kept(client: FlaskClient, store: Store, known: Settings) -> None:
    record_rounds(store, known)
    assert client.post("/projects/3/rollback", data={"version": "v2"}).status_code == 409
    assert store.publications.actions(3) == []


def test_a_script_may_do_the_same_and_is_answered_with_json(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    json_only = {"Accept": "application/json"}
    response = client.post("/projects/3/rollback", data={"version": "v1"}, headers=json_only)
    assert response.get_json()["done"].startswith("Project 3 goes back to v1")
    response = client.post("/projects/3/rollback", data={"version": "v9"}, headers=json_only)
    assert response.status_code == 409
    assert response.get_json()["error"] == "v9 cannot be published: project 3 has no such version."


def test_what_stands_in_the_way_of_a_rollback_is_said_on_the_page(
    client: FlaskClient, store: Store, known: Settings
) -> None:
    record_rounds(store, known)
    response = client.post("/projects/3/rollback", data={"version": "v2"}, headers=OURS)
    assert response.status_code == 409
    assert "v2 cannot be published: its weights are gone." in response.text
    assert store.publications.pinned(3) == ""
    response = client.post("/projects/3/resume", headers=OURS)
    assert response.status_code == 409
    assert "Nothing is pinned in project 3." in response.text


@pytest.mark.seconds
@pytest.mark.parametrize("path", ["rollback", "resume"])
def test_every_link_of_a_page_that_refuses_a_change_leads_somewhere(
    client: FlaskClient, store: Store, path: str
) -> None:
    add_tasks(store, *range(1, 61))
    publish_often(store, 40)
    publish(store, *range(1, 61), number=41)
    response = client.post(f"/projects/3/{path}", data={"version": "v9"}, headers=OURS)
    assert response.status_code == 409
    links = [
        one.replace("&amp;", "&") for one in re.findall(r'<a [^>]*href="([^"]*)"', response.text)
    ]
    ours = {
        urljoin(f"/projects/3/{path}", one) for one in links if not one.startswith(("http", "#"))
    }
    codes = {one: client.get(one, headers=BROWSER).status_code for one in ours}
    assert codes == dict.fromkeys(ours, 200)
    assert len(ours) == 6


@pytest.mark.seconds
@pytest.mark.parametrize("path", ["rollback", "resume"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_change_that_another_site_asks_for_is_refused(
    client: FlaskClient, store: Store, known: Settings, path: str, headers: dict[str, str]
) -> None:
    record_rounds(store, known)
    store.publications.pin(3, "v1")
    response = client.post(f"/projects/3/{path}", data={"version": "v2"}, headers=headers)
    assert response.status_code == 403
    assert store.publications.pinned(3) == "v1"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9090", "192.168.1.5:9090", "[::1]:9090"])
def test_a_browser_that_only_names_our_own_address_is_let_through(
    client: FlaskClient, store: Store, known: Settings, host: str
) -> None:
    """Over plain HTTP, browsers send no Sec-Fetch-Site but to this very machine."""
    record_rounds(store, known)
    own = {"Host": host, "Origin": f"http://{host}"}
    response = client.post("/projects/3/rollback", data={"version": "v1"}, headers=own)
    assert response.status_code == 200


def named(store: Store, settings: Settings, host: str, path: str = "/projects/3") -> int:
    """Return the code of the answer to somebody who calls us by a name."""
    client = create_app(settings, store, lambda project, task: []).test_client()
    return client.get(path, headers={"Host": host}).status_code


@pytest.mark.parametrize(
    "host", ["localhost:9090", "127.0.0.1:9090", "10.0.0.7", "[::1]:9090", "[2001:db8::7]"]
)
def test_the_pages_open_by_an_address_and_by_localhost(
    store: Store, known: Settings, host: str
) -> None:
    assert named(store, known, host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil", "[x"]
)
@pytest.mark.parametrize("path", ["/projects", "/projects/3", "/projects/3/map.json", "/health"])
def test_a_name_that_anybody_could_have_given_us_opens_nothing(
    store: Store, known: Settings, host: str, path: str
) -> None:
    assert named(store, known, host, path) in {400, 403}


def test_no_route_at_all_is_opened_by_such_a_name(store: Store, known: Settings) -> None:
    app = create_app(known, store, lambda project, task: [])
    for rule in app.url_map.iter_rules():
        path = re.sub("<[^>]*>", "3", str(rule))
        for method in rule.methods or ():
            sent = app.test_client().open(path, method=method, headers={"Host": "evil.example"})
            assert sent.status_code == 403, (method, path)
    sent = app.test_client().post("/setup", json={"project": 77}, headers={"Host": "evil.example"})
    assert sent.status_code == 403
    assert store.projects.get(77) is None


def test_a_name_without_a_dot_opens_the_service(store: Store, known: Settings) -> None:
    """No public name server can give one away."""
    assert named(store, known, "firstlight-server:9090") == 200


def test_few_records_are_sent_at_once_for_each_holds_a_thread(
    store: Store, known: Settings
) -> None:
    app = create_app(known, store, lambda project, task: [])
    taking = [app.test_client().get("/projects/3/rounds.json") for _ in range(RECORDS)]
    refused = app.test_client().get("/projects/3/rounds.json")
    assert refused.status_code == 503
    assert "Ask again" in refused.get_json()["error"]
    for answer in taking:
        answer.close()
    assert app.test_client().get("/projects/3/rounds.json").status_code == 200


def test_what_to_set_is_said_to_whoever_comes_by_an_unknown_name(client: FlaskClient) -> None:
    answer = client.get("/projects", headers={"Host": "scans.example"})
    for part in ("'scans.example'", "BACKEND_URL", "BASIC_AUTH_USER"):
        assert part in answer.get_json()["error"]


@pytest.mark.parametrize(
    "setting",
    [
        {"backend_url": "http://firstlight.hospital.example:9090"},
        {"host": "Firstlight.hospital.example"},
        {"basic_auth_user": "ada", "basic_auth_pass": SecretStr("lovelace")},
    ],
)
def test_a_name_of_the_settings_or_a_password_opens_the_pages(
    store: Store, known: Settings, setting: dict[str, Any]
) -> None:
    settings = known.model_copy(update=setting)
    code = 401 if "basic_auth_user" in setting else 200
    assert named(store, known, "firstlight.hospital.example:9090") == 403
    assert named(store, settings, "firstlight.hospital.example:9090") == code
    assert named(store, settings, "localhost:9090") == code, "as docker-compose publishes it"


@pytest.mark.parametrize("number", ["99999999999999999999", "2147483648"])
@pytest.mark.parametrize("rest", ["", "/map.json", "/rounds.json", "/scans/1.png"])
def test_a_number_that_no_project_can_have_is_not_found(
    client: FlaskClient, number: str, rest: str
) -> None:
    assert client.get(f"/projects/{number}{rest}").status_code == 404


@pytest.mark.seconds
@pytest.mark.parametrize("path", ["rollback", "resume"])
def test_no_link_can_change_anything(client: FlaskClient, path: str) -> None:
    assert client.get(f"/projects/3/{path}").status_code == 405


def test_progress_is_a_share_where_a_step_can_say_it(client: FlaskClient, store: Store) -> None:
    shares = {}
    for step, done in (
        ("embed", {"done": 16, "total": 64}),
        ("train", {"epoch": 3, "epochs": 13, "batch": 27, "batches": 130, "loss": 0.4}),
        ("sync", {}),
        ("embed ", {"done": 0, "total": 0}),
    ):
        store.projects.enter(3, step, **done)
        shares[step] = client.get("/projects/3?format=json").get_json()["share"]
    assert shares == {"embed": 0.25, "train": 0.208, "sync": None, "embed ": None}


def test_links_lead_to_the_address_that_browsers_reach(store: Store, known: Settings) -> None:
    inside = known.model_copy(update={"label_studio_url": "http://label-studio:8080"})
    for public, expected in (
        ("", "http://label-studio:8080/projects/3/data"),
        ("https://label.example", "https://label.example/projects/3/data"),
    ):
        settings = inside.model_copy(update={"label_studio_public_url": public})
        page = create_app(settings, store, lambda project, task: []).test_client()
        answer = page.get("/projects/3", headers={"Accept": "text/html"}).get_data(as_text=True)
        assert f'href="{expected}"' in answer
