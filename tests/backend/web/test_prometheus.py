from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from backend.settings import Settings
from backend.storage.records import ModelQuality
from backend.storage.store import Store, open_store
from backend.storage.tables import Model, Publication
from backend.web.app import create_app
from model.evaluation import MAIN, OTHERS
from tests.backend.conftest import Clock

IOU = replace(MAIN, name="iou", title="IoU")


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.clock = clock
    store.create()
    yield store
    store.close()


@pytest.fixture
def client(tmp_path: Path, store: Store) -> FlaskClient:
    return create_app(Settings(data_dir=tmp_path), store, lambda project, task: []).test_client()


def figures(client: FlaskClient) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.content_type.startswith("text/plain")
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_of_an_empty_installation_are_zero(client: FlaskClient) -> None:
    found = figures(client)
    assert found["firstlight_trainings_running"] == 0
    assert found["firstlight_refreshes_waiting"] == 0
    assert found["firstlight_webhooks_total"] == 0


def test_metrics_follow_what_another_process_writes(
    client: FlaskClient, store: Store, tmp_path: Path
) -> None:
    worker = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    worker.projects.request_refresh(3)
    worker.projects.request_refresh(4)
    worker.projects.update(4, completed=1)
    worker.projects.enter(3, "train", epoch=1)
    worker.scans.save(3, [{"id": number, "url": ""} for number in (1, 2)])
    annotation = {"updated_at": "", "created_at": "", "ground_truth": False, "result": "[]"}
    worker.labels.replace(
        3, [1, 2], [{"id": n, "task_id": n, "cancelled": n == 2, **annotation} for n in (1, 2)]
    )
    worker.rounds.of_workflow(3, "a")
    worker.rounds.of_workflow(3, "b")
    found = figures(client)
    assert found["firstlight_trainings_running"] == 1
    assert found["firstlight_refreshes_waiting"] == 1
    assert (found["firstlight_labels3"], found["firstlight_labels4"]) == (1, 0)
    assert (found["firstlight_scans3"], found["firstlight_rounds3"]) == (2, 2)
    worker.projects.enter(3, "")
    assert figures(client)["firstlight_trainings_running"] == 0
    worker.engine.dispose()


@pytest.mark.parametrize("step", ["train", "refine", "review", "selection-gain"])
def test_work_of_idle_time_counts_as_training(client: FlaskClient, store: Store, step: str) -> None:
    store.projects.request_refresh(3)
    store.projects.enter(3, step)
    assert figures(client)["firstlight_trainings_running"] == 1
    store.projects.enter(3, "score")
    assert figures(client)["firstlight_trainings_running"] == 0


def test_how_long_a_change_waits_for_its_queue_is_told(
    client: FlaskClient, store: Store, clock: Clock
) -> None:
    store.projects.request_refresh(3)
    clock.advance(30)
    store.projects.request_refresh(3)
    clock.advance(30)
    assert figures(client)["firstlight_refresh_wait_seconds3"] == 60, "since the first of them"
    store.projects.update(3, completed=2)
    assert figures(client)["firstlight_refresh_wait_seconds3"] == 0
    clock.advance(30)
    store.projects.request_refresh(3)
    clock.advance(5)
    assert figures(client)["firstlight_refresh_wait_seconds3"] == 5


def test_nobody_waited_for_a_project_while_it_was_disconnected(
    client: FlaskClient, store: Store, clock: Clock
) -> None:
    store.projects.request_refresh(3)
    store.projects.update(3, disconnected=True)
    clock.advance(1_000_000)
    store.projects.request_refresh(3, connected=True)
    clock.advance(5)
    assert figures(client)["firstlight_refresh_wait_seconds3"] == 5


def test_clocks_of_two_machines_that_differ_make_no_negative_age(
    client: FlaskClient, store: Store, clock: Clock
) -> None:
    store.projects.request_refresh(3)
    clock.advance(-2)
    assert figures(client)["firstlight_refresh_wait_seconds3"] == 0


def test_the_age_of_the_queue_is_that_of_the_live_version(
    client: FlaskClient, store: Store, clock: Clock
) -> None:
    store.projects.request_refresh(3)
    assert "firstlight_queue_age_seconds3" not in figures(client)
    store.publications.save(Publication(project_id=3, name="a", round=1, attempt=1))
    store.publications.go_live(3, "a")
    clock.advance(90)
    found = figures(client)
    assert found["firstlight_queue_age_seconds3"] == 90
    assert found["firstlight_versions3live"] == 1


def test_seconds_of_steps_are_summed_over_all_rounds(client: FlaskClient, store: Store) -> None:
    store.projects.request_refresh(3)
    for workflow, seconds in (("a", 2.0), ("b", 5.0)):
        opened = store.rounds.of_workflow(3, workflow)
        store.rounds.add_seconds(3, opened.number, "train", seconds)
    store.rounds.abort(3, "It was cut off.")
    found = figures(client)
    assert found["firstlight_step_seconds_count3train"] == 2
    assert found["firstlight_step_seconds_sum3train"] == 7
    assert found["firstlight_rounds3"] == 2
    assert found["firstlight_rounds_failed3"] == 2


def test_dice_is_absent_until_it_is_known(client: FlaskClient, store: Store) -> None:
    store.projects.request_refresh(3)
    assert not [name for name in figures(client) if name.startswith("firstlight_dice")]
    store.publications.save_model(
        Model(
            project_id=3,
            key="k",
            labels=5,
            created_at=0.0,
            quality=ModelQuality(validation={"dice": 0.9}),
        )
    )
    store.publications.save(Publication(project_id=3, name="a", round=1, attempt=1, model_key="k"))
    store.publications.go_live(3, "a")
    store.projects.update(3, draft_dice=0.75)
    assert "firstlight_drafts_unchanged_ratio3" not in figures(client)
    store.projects.update(3, unchanged_drafts=0.4, changed_draft_dice=0.6)
    found = figures(client)
    assert found["firstlight_diceheld-out3"] == 0.9
    assert found["firstlight_dicedrafts3"] == 0.75
    assert found["firstlight_dicedrafts-changed3"] == 0.6
    assert found["firstlight_drafts_unchanged_ratio3"] == 0.4


def test_each_metric_has_a_gauge_for_held_out_scans(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.web.prometheus.OTHERS", [*OTHERS, IOU])
    store.projects.request_refresh(3)
    quality = ModelQuality(validation={"hd95": 4.5, "iou": 0.8})
    store.publications.save_model(
        Model(project_id=3, key="k", labels=5, created_at=0.0, quality=quality)
    )
    store.publications.save(Publication(project_id=3, name="a", round=1, attempt=1, model_key="k"))
    store.publications.go_live(3, "a")
    found = figures(client)
    assert (found["firstlight_hd95held-out3"], found["firstlight_iouheld-out3"]) == (4.5, 0.8)


def test_scans_that_cannot_be_read_are_counted(client: FlaskClient, store: Store) -> None:
    store.projects.request_refresh(3)
    store.scans.save(3, [{"id": number, "url": "x"} for number in (1, 2, 3)])
    store.scans.mark_unreadable(3, 2, "The server answered 404.")
    store.projects.update(3, failures=4)
    found = figures(client)
    assert (found["firstlight_scans3"], found["firstlight_scans_unreadable3"]) == (3, 1)
    assert found["firstlight_scans_unseen3"] == 2
    store.scans.note_pixels(3, [{"task": 1, "height": 1, "width": 1, "pixels": "a"}])
    assert figures(client)["firstlight_scans_unseen3"] == 1
    assert found["firstlight_failures_in_a_row3"] == 4


def test_workers_count_while_they_show_signs_of_life(
    client: FlaskClient, store: Store, clock: Clock
) -> None:
    store.workers.join("one", "here", "1")
    store.workers.join("two", "there", "1")
    assert figures(client)["firstlight_workers"] == 2
    clock.advance(50)
    store.workers.beat("two")
    clock.advance(50)
    assert figures(client)["firstlight_workers"] == 1


def test_a_disconnected_project_has_no_figures(client: FlaskClient, store: Store) -> None:
    store.projects.request_refresh(3)
    store.projects.update(3, disconnected=True)
    assert "firstlight_scans3" not in figures(client)


def test_what_a_person_typed_is_in_no_figure(client: FlaskClient, store: Store) -> None:
    store.projects.request_refresh(3)
    store.projects.update(3, title="Mrs Smith", label_config="<View/>", problem="Mrs Smith")
    store.scans.save(3, [{"id": 1, "url": "mrs-smith.png", "group": "Smith"}])
    store.scans.mark_unreadable(3, 1, "smith")
    assert "smith" not in client.get("/metrics").text.lower()


def test_webhooks_are_counted_whether_they_are_of_use_or_not(client: FlaskClient) -> None:
    client.post("/webhook", json={})
    client.post("/webhook", data=b"{")
    assert figures(client)["firstlight_webhooks_total"] == 2


def test_metrics_of_a_broken_database_are_an_error_that_says_so(
    client: FlaskClient, store: Store, tmp_path: Path
) -> None:
    store.close()
    (tmp_path / "memory.sqlite").write_bytes(b"not a database" * 100)
    response = client.get("/metrics")
    assert response.status_code == 503
    assert "database" in response.get_json()["error"]
