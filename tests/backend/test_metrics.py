from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from backend.app import create_app
from backend.settings import Settings
from backend.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.create()
    yield store
    store.engine.dispose()


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
    worker.want(3)
    worker.want(4)
    worker.update(4, done=1)
    worker.enter(3, "train", epoch=1)
    worker.save_tasks(3, [{"id": number, "url": ""} for number in (1, 2)])
    annotation = {"updated_at": "", "created_at": "", "ground_truth": False, "result": "[]"}
    worker.replace_annotations(
        3, [1, 2], [{"id": n, "task_id": n, "cancelled": n == 2, **annotation} for n in (1, 2)]
    )
    worker.round_of(3, "a")
    worker.round_of(3, "b")
    found = figures(client)
    assert found["firstlight_trainings_running"] == 1
    assert found["firstlight_refreshes_waiting"] == 1
    assert (found["firstlight_labels3"], found["firstlight_labels4"]) == (1, 0)
    assert (found["firstlight_scans3"], found["firstlight_rounds3"]) == (2, 2)
    worker.enter(3, "")
    assert figures(client)["firstlight_trainings_running"] == 0
    worker.engine.dispose()


def test_webhooks_are_counted_whether_they_are_of_use_or_not(client: FlaskClient) -> None:
    client.post("/webhook", json={})
    client.post("/webhook", data=b"{")
    assert figures(client)["firstlight_webhooks_total"] == 2


def test_metrics_of_a_broken_database_are_an_error_that_says_so(
    client: FlaskClient, store: Store, tmp_path: Path
) -> None:
    store.engine.dispose()
    (tmp_path / "memory.sqlite").write_bytes(b"not a database" * 100)
    response = client.get("/metrics")
    assert response.status_code == 503
    assert "database" in response.get_json()["error"]
