from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from backend import logs
from backend.errors import ImageError
from backend.label_studio import labels
from backend.label_studio.credentials import SECRET_HEADER
from backend.logs import JsonFormatter
from backend.options import ProjectOptions, parse_options
from backend.settings import Settings
from backend.storage.projects import MOST_SIGHTINGS
from backend.storage.store import Store, open_store
from backend.storage.tables import DraftScore, Model, Publication
from backend.web.app import MOST_PARTS, create_app
from backend.web.ml_protocol import MOST_DRAWN, OneAtATime
from backend.web.schemas import identifier
from tests.backend.conftest import the

WIRE = Path(__file__).parents[2] / "wire"
CONFIG = json.loads((WIRE / "setup.json").read_text())["body"]["schema"]
REGION = {"id": "a", "type": "brushlabels"}
SYNCED = "2026-11-23T00:07:32.683860Z"
POSTS = ("/setup", "/predict", "/webhook", "/job_status")
METHOD = ProjectOptions().method_in_use  # the tests turn `refine` off by the environment


def one_region(project_id: int, task_id: int) -> list[dict[str, Any]]:
    return [REGION]


def forbidden(project_id: int, task_id: int) -> list[dict[str, Any]]:
    raise AssertionError("nothing here may compute a draft")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}", busy_ms=10)
    store.create()
    yield store
    store.close()


@pytest.fixture
def client(tmp_path: Path, store: Store) -> FlaskClient:
    return create_app(Settings(data_dir=tmp_path), store, one_region).test_client()


def recorded(name: str, project_id: int = 1) -> dict[str, Any]:
    """A request of Label Studio 1.23.2."""
    body: dict[str, Any] = json.loads((WIRE / f"{name}.json").read_text())["body"]
    if isinstance(body["project"], dict):
        body["project"]["id"] = project_id
    else:
        body["project"] = f"{project_id}.1795391735"
    return body


def ask(client: FlaskClient, path: str, body: Any, code: int = 200) -> dict[str, Any]:
    """Post and return the answer; an event that is taken is answered with 201."""
    response = client.post(path, json=body)
    answer: dict[str, Any] = response.get_json()
    taken = path == "/webhook" and answer.get("status") == "ok"
    assert response.status_code == (201 if taken else code), response.text
    return answer


def known(store: Store, project_id: int = 1, **values: Any) -> None:
    """Make a project that the worker has seen and is done with."""
    store.projects.request_refresh(project_id)
    settled: dict[str, Any] = {"seen": {"extra_params": {}}, "label_config": CONFIG}
    store.projects.update(project_id, **{"completed": 1, "full_sync": False} | settled | values)


def live(store: Store, project_id: int = 1, name: str = "unet r0001") -> None:
    store.publications.save(
        Publication(project_id=project_id, name=name, round=1, attempt=1, created_at=store.clock())
    )
    store.publications.go_live(project_id, name)


def drawing(store: Store, urls: Mapping[int, str], project_id: int = 1) -> None:
    """Make a project whose live model draws drafts, and these scans of it."""
    known(store, project_id)
    classes = list(labels.parse(CONFIG).labels)
    store.publications.save_model(
        Model(project_id=project_id, key="m", labels=5, created_at=0.0, classes=classes)
    )
    live(store, project_id)
    version = store.publications.get(project_id, "unet r0001")
    assert version is not None
    version.model_key, version.labels = "m", 5
    store.publications.save(version)
    rows = [{"id": task, "url": url, "updated_at": SYNCED} for task, url in urls.items()]
    store.scans.save(project_id, rows)


def counters(store: Store, project_id: int = 1) -> tuple[int, bool]:
    project = store.projects.get(project_id)
    assert project is not None
    return project.requested, project.full_sync


# -- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/health"])
def test_health_says_that_the_service_is_up_and_what_is_wrong(
    client: FlaskClient, store: Store, path: str
) -> None:
    known(store, 3, title="Mrs Smith", problem="The token was refused.", fix="Set a new one.")
    known(store, 4)
    store.projects.update(3, warnings=["another encoder stands in"])
    assert client.get(path).get_json() == {
        "status": "UP",
        "model_class": "Firstlight",
        "problems": ["project 3: The token was refused. Set a new one."],
        "warnings": ["project 3: another encoder stands in"],
    }


def test_health_is_up_and_says_so_when_the_database_does_not_answer(
    client: FlaskClient, tmp_path: Path, store: Store
) -> None:
    store.close()
    (tmp_path / "memory.sqlite").write_bytes(b"not a database" * 100)
    answer = client.get("/health").get_json()
    assert answer["status"] == "UP"
    assert "database" in answer["problems"][0]
    assert client.post("/setup", json={"project": 1}).status_code == 503


def test_it_is_ready_while_its_database_answers_and_its_folder_can_be_written(
    client: FlaskClient, tmp_path: Path, store: Store
) -> None:
    assert client.get("/ready").get_json() == {"status": "READY"}
    store.close()
    (tmp_path / "memory.sqlite").write_bytes(b"not a database" * 100)
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "database" in answer.get_json()["error"]
    assert answer.get_json()["fix"]


def test_it_is_not_ready_without_a_folder_that_can_be_written(tmp_path: Path, store: Store) -> None:
    gone = Settings(data_dir=tmp_path / "unmounted")
    answer = create_app(gone, store, one_region).test_client().get("/ready")
    assert answer.status_code == 503
    assert "DATA_DIR cannot be written" in answer.get_json()["error"]
    assert str(tmp_path) not in answer.text, "nobody was asked for a password"
    assert not gone.data_dir.exists(), "a share that is not mounted is not made up"


def test_whether_it_is_ready_may_be_asked_many_times_at_once_and_leaves_nothing(
    client: FlaskClient, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    ask = client.application.test_client
    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(lambda _: ask().get("/ready").status_code, range(100)))
    assert codes == {200}
    assert sorted(tmp_path.iterdir()) == before


def test_readiness_tells_nothing_of_projects(client: FlaskClient, store: Store) -> None:
    known(store, 3, title="Mrs Smith", problem="The token was refused.", fix="Set a new one.")
    assert client.get("/ready").get_json() == {"status": "READY"}


# -- ids in the log -------------------------------------------------------------------------------


def test_what_a_draft_logs_on_its_thread_carries_project_and_task(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(project_id: int, task_id: int) -> list[dict[str, Any]]:
        logging.getLogger("backend.rounds.drafts.drafting").warning("on the thread")
        raise ImageError("The scan cannot be read.")

    logs.configure("INFO")
    drafts = OneAtATime(broken)
    assert drafts(3, [8]) == [[]]
    drafts.close()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["message"].split(".")[0] for line in lines] == [
        "on the thread",
        "no draft: The scan cannot be read",
    ]
    assert {(line["project"], line["task"]) for line in lines} == {(3, 8)}


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_what_label_studio_asked_for_in_vain_is_logged_with_its_project(
    client: FlaskClient, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    logs.configure("INFO")
    store.close()
    (tmp_path / "memory.sqlite").write_bytes(b"not a database" * 100)
    ask(client, path, {"project": 7, "action": "ANNOTATION_CREATED"}, code=503)
    [line] = map(json.loads, capsys.readouterr().err.splitlines())
    assert line["message"].startswith(f"POST {path}: The database")
    assert line["project"] == 7


# -- setup ----------------------------------------------------------------------------------------


def test_setup_of_a_new_project_leaves_it_to_the_worker_and_names_the_installation(
    client: FlaskClient, store: Store
) -> None:
    answer = ask(client, "/setup", recorded("setup"))
    assert answer == {
        "model_version": f"firstlight-{store.installation.id}",
        "problems": [],
        "method": METHOD,
    }
    assert [seen.project_id for seen in store.projects.sightings()] == [1]
    assert store.projects.all() == [], "anybody may have asked"


def test_options_that_this_installation_no_longer_accepts_cost_neither_setup_nor_the_page(
    client: FlaskClient, store: Store
) -> None:
    store.projects.request_refresh(1)
    stored = ProjectOptions().model_dump() | {"network": "a network of a package that is gone"}
    store.projects.update(1, options=stored)
    assert "package that is gone" in ask(client, "/setup", {"project": 1})["method"]
    assert client.get("/projects/1").status_code == 200


@pytest.mark.seconds
def test_a_flood_of_made_up_projects_leaves_no_project(client: FlaskClient, store: Store) -> None:
    for number in range(1, 300):
        assert client.post("/setup", json={"project": number}).status_code == 200
    assert store.projects.all() == []
    assert len(store.projects.sightings()) == MOST_SIGHTINGS


def test_setup_answers_with_the_live_version_and_leaves_a_settled_project_alone(
    client: FlaskClient, store: Store
) -> None:
    known(store, seen={"extra_params": {"alpha": 0.3}})
    live(store)
    for _ in range(3):
        assert ask(client, "/setup", recorded("setup"))["model_version"] == "unet r0001"
    assert counters(store) == (1, False)


@pytest.mark.parametrize("project", [1, "1", "1.1795391735", 1.1795391735, {"id": 1}])
def test_setup_knows_a_project_by_every_shape_of_its_id(
    client: FlaskClient, store: Store, project: Any
) -> None:
    known(store)
    live(store)
    answer = ask(client, "/setup", {"project": project, "schema": CONFIG})
    assert answer == {"model_version": "unet r0001", "problems": [], "method": METHOD}


@pytest.mark.parametrize(
    "body", [{}, {"project": None}, {"project": "x"}, {"project": -1}, {"project": True}]
)
def test_setup_without_a_usable_project_is_answered_with_the_problem(
    client: FlaskClient, store: Store, body: dict[str, Any]
) -> None:
    answer = ask(client, "/setup", body)
    assert "names no project" in answer["problems"][0]
    assert not store.projects.all()


@pytest.mark.parametrize(
    ("seen", "sent", "counts"),
    [
        ({"extra_params": {"alpha": 0.3}}, None, False),
        ({"extra_params": {"alpha": 0.3}}, {"alpha": 0.3}, False),
        ({"extra_params": {"alpha": 0.3}}, {"alpha": 0.4}, True),
        ({"extra_params": {"alpha": 0.3}}, {}, True),
        ({"extra_params": None}, {}, False),
        ({"extra_params": {}}, "", False),
        ({}, {"alpha": 0.4}, False),
    ],
)
def test_setup_asks_for_a_refresh_only_when_the_options_differ_from_those_last_read(
    client: FlaskClient, store: Store, seen: dict[str, Any], sent: object, counts: bool
) -> None:
    known(store, seen=seen, options={"alpha": 0.3})
    ask(client, "/setup", {"project": 1, "schema": CONFIG, "extra_params": sent})
    assert counters(store)[0] == 1 + counts
    project = store.projects.get(1)
    assert project is not None
    assert project.options == {"alpha": 0.3}


@pytest.mark.parametrize(
    ("hostname", "kept"),
    [
        ("http://localhost:8080/", "http://localhost:8080"),
        ("file:///etc", ""),
        ("http://[", ""),
        ("https://" + "a" * 300, ""),
        (7, ""),
    ],
)
def test_setup_remembers_by_which_name_label_studio_goes(
    client: FlaskClient, store: Store, hostname: object, kept: str
) -> None:
    store.projects.request_refresh(1)
    assert client.post("/setup", json={"project": 1, "hostname": hostname}).status_code == 200
    project = store.projects.get(1)
    assert project is not None
    assert project.hostname == kept


def test_setup_of_a_project_that_was_disconnected_leaves_it_to_the_worker(
    client: FlaskClient, store: Store
) -> None:
    known(store, disconnected=True)
    ask(client, "/setup", {"project": 1, "schema": CONFIG})
    assert [seen.project_id for seen in store.projects.sightings()] == [1]
    assert counters(store) == (1, False)


@pytest.mark.parametrize("name", ["annotation_created", "tasks_created", "start_training"])
def test_no_event_wakes_a_project_that_was_disconnected(
    client: FlaskClient, store: Store, name: str
) -> None:
    known(store, disconnected=True)
    answer = ask(client, "/webhook", recorded(name))
    assert answer == {"status": "ignored", "reason": "project 1 is not connected"}
    project = store.projects.get(1)
    assert project is not None
    assert (project.disconnected, project.requested) == (True, 1)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_no_page_of_another_site_can_post_anything(
    client: FlaskClient, store: Store, path: str, headers: dict[str, str]
) -> None:
    known(store)
    response = client.post(path, data=json.dumps(recorded("start_training")), headers=headers)
    assert response.status_code == 403
    assert counters(store) == (1, False)


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_label_studio_calls_us_by_the_name_of_backend_url(
    tmp_path: Path, store: Store, path: str
) -> None:
    """As it did when its requests were recorded: with neither Origin nor Sec-Fetch-Site."""
    settings = Settings(data_dir=tmp_path, backend_url="http://firstlight.hospital.example:9090")
    client = create_app(settings, store, lambda project, task: []).test_client()
    name = {"/setup": "setup", "/predict": "predict"}.get(path, "annotation_created")
    response = client.post(
        path, json=recorded(name), headers={"Host": "firstlight.hospital.example:9090"}
    )
    assert response.status_code == 200
    sent = json.loads((WIRE / f"{name}.json").read_text()).get("headers", {})
    assert not {"origin", "sec-fetch-site"} & {header.lower() for header in sent}


def test_setup_tells_everything_that_is_wrong(client: FlaskClient, store: Store) -> None:
    known(store, problem="No entry.", fix="Connect.", options_problem="alpha: no.")
    body = {"project": 1, "schema": "<View/>", "extra_params": '{"alfa": 1}'}
    problems = ask(client, "/setup", body)["problems"]
    assert len(problems) == 4
    assert "Image" in problems[0]
    assert "alfa: unknown option" in problems[1]
    assert problems[2:] == ["No entry. Connect.", "alpha: no."]


@pytest.mark.parametrize(
    ("extra_params", "said"),
    [
        ({}, METHOD),
        (None, "paper"),  # says nothing of the options: those of the last sync hold
        ({"method": "paper", "alpha": 0.5}, "paper, but `alpha` 0.5"),
        ({"method": "papers"}, "paper"),  # wrong: those of the last sync hold
    ],
)
def test_setup_says_which_method_holds(
    client: FlaskClient, store: Store, extra_params: object, said: str
) -> None:
    known(store, options=parse_options({"method": "paper"}).model_dump())
    body = {"project": 1, "extra_params": extra_params}
    assert ask(client, "/setup", body)["method"] == said


def test_nothing_of_a_setup_body_is_stored_or_logged(
    client: FlaskClient, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ask(client, "/setup", recorded("setup"))
    assert "a-token-that-nobody-may-log" not in caplog.text
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"a-token-that-nobody-may-log" not in kept
    assert b"8090" not in kept


# -- predict --------------------------------------------------------------------------------------


def test_predict_answers_one_result_a_task_with_the_live_version(
    client: FlaskClient, store: Store
) -> None:
    drawing(store, sent())
    answer = ask(client, "/predict", recorded("predict"))
    expected = {"result": [REGION], "score": 1.0, "model_version": "unet r0001"}
    assert answer == {"results": [expected, expected]}


def test_predict_without_a_live_version_answers_nothing_drawn_and_asks_no_model(
    tmp_path: Path, store: Store
) -> None:
    client = create_app(Settings(data_dir=tmp_path), store, forbidden).test_client()
    version = f"firstlight-{store.installation.id}"
    expected = {"result": [], "score": 1.0, "model_version": version}
    assert ask(client, "/predict", recorded("predict")) == {"results": [expected, expected]}
    known(store)
    assert ask(client, "/predict", recorded("predict")) == {"results": [expected, expected]}


def sent() -> dict[int, str]:
    """The scans of the recorded request."""
    return {task["id"]: task["data"]["image"] for task in recorded("predict")["tasks"]}


def test_a_task_that_is_not_stored_gets_nothing_and_no_network_is_asked(
    tmp_path: Path, store: Store
) -> None:
    asked = []

    def draw(project_id: int, task_id: int) -> list[dict[str, Any]]:
        asked.append((project_id, task_id))
        return [REGION]

    drawing(store, {1: "a.png"})
    drawing(store, {2: "b.png"}, project_id=2)
    client = create_app(Settings(data_dir=tmp_path), store, draw).test_client()
    files = sorted(tmp_path.rglob("*"))
    tasks = [{"id": n, "data": {"image": "data:image/png;base64,AAAA"}} for n in (2, 1, 99)]
    results = ask(client, "/predict", {"project": 1, "tasks": tasks})["results"]
    assert [one["result"] for one in results] == [[], [REGION], []]
    assert asked == [(1, 1)]
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize(
    ("updated_at", "image", "drawn"),
    [
        (SYNCED, "/tasks/1/resolve/?fileuri=czM6Ly9i", True),
        (SYNCED, "s3://b/a.png", True),  # the same image in the form that /predict is sent
        ("2026-11-23T01:00:00.000000Z", "/tasks/1/resolve/?fileuri=czM6Ly9i", True),
        ("2026-11-23T01:00:00.000000Z", "s3://b/another.png", False),
    ],
)
def test_no_draft_of_an_image_that_was_replaced_since_the_last_sync_is_handed_out(
    client: FlaskClient, store: Store, updated_at: str, image: str, drawn: bool
) -> None:
    drawing(store, {1: "/tasks/1/resolve/?fileuri=czM6Ly9i"})
    task = {"id": 1, "data": {"image": image}, "updated_at": updated_at}
    [result] = ask(client, "/predict", {"project": 1, "tasks": [task]})["results"]
    assert bool(result["result"]) is drawn


def test_a_request_for_all_tasks_of_a_large_project_gets_a_result_for_each(
    client: FlaskClient, store: Store
) -> None:
    number = 3 * MOST_DRAWN
    drawing(store, {n: "a.png" for n in range(1, number + 1)})
    tasks = [{"id": n} for n in range(1, number + 1)]
    results = ask(client, "/predict", {"project": 1, "tasks": tasks})["results"]
    assert [bool(one["result"]) for one in results[:MOST_DRAWN]] == [True] * MOST_DRAWN
    assert [one["result"] for one in results[MOST_DRAWN:]] == [[]] * (number - MOST_DRAWN)


def undrawn(store: Store, why: str) -> None:
    """Change a project that draws drafts into one that does not."""
    if why == "cold start":
        live(store, name="medoids r0002")
    elif why == "switched off":
        store.projects.update(1, options={"prelabels": False})
    elif why == "poor":
        for task in range(10, 15):
            score = DraftScore(project_id=1, task_id=task, version="v", created_at="t", dice=0.1)
            store.labels.save_draft_score(score)
    elif why == "other labels":
        store.projects.update(1, label_config=CONFIG.replace("Other", "Rib"))
    elif why == "labels that cannot be read":
        store.projects.update(1, label_config="<View/>")


@pytest.mark.parametrize(
    "why", ["cold start", "switched off", "poor", "other labels", "labels that cannot be read"]
)
def test_where_no_draft_is_shown_no_network_is_asked(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    drawing(store, {1: "a.png"})
    undrawn(store, why)
    client = create_app(Settings(data_dir=tmp_path), store, forbidden).test_client()
    [result] = ask(client, "/predict", {"project": 1, "tasks": [{"id": 1}]})["results"]
    assert result["result"] == []
    assert not caplog.records, "a draft that was asked for would have failed"


@pytest.mark.parametrize(
    ("change", "drawn"),
    [
        (("", ""), True),
        (("<View>", "<View >"), True),
        (("Other", "Rib"), False),
        (("<View>", ""), False),
    ],
)
def test_no_draft_of_former_labels_is_handed_out(
    client: FlaskClient, store: Store, change: tuple[str, str], drawn: bool
) -> None:
    drawing(store, sent())
    body = recorded("predict")
    store.projects.update(1, label_config=body["label_config"])
    body["label_config"] = body["label_config"].replace(*change)
    assert [bool(one["result"]) for one in ask(client, "/predict", body)["results"]] == [drawn] * 2


@pytest.mark.parametrize(
    ("tasks", "drawn"),
    [
        ({"id": 1, "data": {}}, [True]),
        ([{"id": 1}, None, {"id": 2, "data": "x"}], [True, False, True]),
        (["x", 7, [], {}, {"id": None}, {"id": "3"}], [False, False, False, False, False, True]),
        ([], []),
        (None, []),
        ("tasks", []),
    ],
)
def test_odd_tasks_get_one_result_each_in_their_order(
    client: FlaskClient, store: Store, tasks: object, drawn: list[bool]
) -> None:
    drawing(store, {1: "a.png", 2: "b.png", 3: "c.png"})
    results = ask(client, "/predict", {"project": 1, "tasks": tasks})["results"]
    assert [bool(one["result"]) for one in results] == drawn


def test_a_draft_that_fails_is_empty_and_said_in_one_line(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def first_unreadable(project_id: int, task_id: int) -> list[dict[str, Any]]:
        if task_id == 1:
            raise ImageError("The scan is no picture.", "Send another.")
        return [REGION]

    drawing(store, {1: "a.png", 2: "b.png"})
    client = create_app(Settings(data_dir=tmp_path), store, first_unreadable).test_client()
    results = ask(client, "/predict", {"project": 1, "tasks": [{"id": 1}, {"id": 2}]})["results"]
    assert [one["result"] for one in results] == [[], [REGION]]
    [record] = [r for r in caplog.records if r.name == "backend.web.ml_protocol"]
    assert record.getMessage() == "no draft: The scan is no picture. Send another."


def test_tasks_after_the_deadline_get_nothing_and_a_late_draft_is_dropped() -> None:
    release, asked = threading.Event(), []

    def slow(project_id: int, task_id: int) -> list[dict[str, Any]]:
        asked.append(task_id)
        release.wait(30)
        return [REGION]

    tasks = [1, 2, 3]
    before = set(threading.enumerate())
    drafts = OneAtATime(slow, seconds=0.05)
    assert drafts(1, tasks) == [[], [], []]
    assert drafts(1, tasks) == [[], [], []]
    assert asked == [1]
    assert len(set(threading.enumerate()) - before) == 1
    release.set()
    while drafts(1, [9]) == [[]]:
        pass  # the thread is still busy with what came too late
    assert asked.count(1) == 1
    drafts.close()
    asked.clear()
    quick = OneAtATime(slow, seconds=30)
    assert quick(1, tasks) == [[REGION]] * 3
    assert asked == [1, 2, 3]
    quick.close()


def test_few_requests_wait_for_drafts_and_the_others_are_answered_at_once() -> None:
    release, started = threading.Event(), threading.Semaphore(0)

    def slow(project_id: int, task_id: int) -> list[dict[str, Any]]:
        started.release()
        release.wait(30)
        return [REGION]

    drafts = OneAtATime(slow, seconds=30, most_waiting=1)
    first = threading.Thread(target=drafts, args=(1, [1]))
    first.start()
    started.acquire(timeout=30)
    assert drafts(1, [2, None]) == [[], []]
    release.set()
    first.join(30)
    assert drafts(1, [3]) == [[REGION]]
    drafts.close()


# -- webhook --------------------------------------------------------------------------------------

EVENTS = (
    ("annotation_created", False),
    ("annotation_created_skip", False),
    ("annotation_updated", False),
    ("annotations_deleted", False),
    ("tasks_created", False),
    ("tasks_deleted", True),
)


@pytest.mark.parametrize(("name", "full"), EVENTS)
def test_every_event_that_changes_the_queue_leaves_a_hint(
    client: FlaskClient, store: Store, name: str, full: bool
) -> None:
    known(store)
    assert ask(client, "/webhook", recorded(name)) == {"status": "ok"}
    assert counters(store) == (2, full)


@pytest.mark.parametrize(
    "action",
    [
        "ANNOTATIONS_CREATED",
        "ANNOTATION_DELETED",
        "ANNOTATIONS_UPDATED",
        "TASK_CREATED",
        "TASK_DELETED",
    ],
)
def test_singular_and_plural_events_count_alike(
    client: FlaskClient, store: Store, action: str
) -> None:
    known(store)
    assert ask(client, "/webhook", {"action": action, "project": {"id": 1}})["status"] == "ok"


@pytest.mark.parametrize(
    "place",
    [
        {"project": 1},
        {"project": "1"},
        {"project": {"id": "1"}},
        {"project_id": 1},
        {"task": {"project": 1}},
        {"project": {"title": "x"}, "annotation": {"project": 1}},
    ],
)
def test_the_project_is_found_wherever_an_event_names_it(
    client: FlaskClient, store: Store, place: dict[str, Any]
) -> None:
    known(store)
    assert ask(client, "/webhook", {"action": "ANNOTATION_CREATED", **place})["status"] == "ok"


def test_a_project_update_counts_only_with_another_label_config(
    client: FlaskClient, store: Store
) -> None:
    known(store)
    body = recorded("project_updated")
    assert ask(client, "/webhook", body)["status"] == "ignored"
    del body["project"]["label_config"]
    assert ask(client, "/webhook", body)["status"] == "ignored"
    assert counters(store) == (1, False)
    body["project"]["label_config"] = "<View/>"
    assert ask(client, "/webhook", body)["status"] == "ok"
    assert counters(store) == (2, False)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "ANNOTATION_CREATED"},
        {"action": "ANNOTATION_CREATED", "project": {"id": 99}},
        {"action": "LABEL_LINK_CREATED", "project": {"id": 1}},
        {"action": ["ANNOTATION_CREATED"], "project": {"id": 1}},
        {"action": None, "project": {"id": 1}},
    ],
)
def test_events_that_mean_nothing_here_are_ignored_with_a_reason(
    client: FlaskClient, store: Store, body: dict[str, Any]
) -> None:
    known(store)
    answer = ask(client, "/webhook", body)
    assert answer["status"] == "ignored"
    assert answer["reason"]
    assert [project.id for project in store.projects.all()] == [1]
    assert counters(store) == (1, False)


def test_start_training_answers_with_a_job_that_can_be_followed(
    client: FlaskClient, store: Store
) -> None:
    known(store)
    job = ask(client, "/webhook", recorded("start_training"))["job"]
    assert job == "1.2"
    assert ask(client, "/job_status", {"job": job})["job_status"] == "queued"
    store.projects.enter(1, "train", epoch=3)
    answer = ask(client, "/job_status", {"job": job})
    assert answer == {"job_status": "started", "step": "train", "progress": {"epoch": 3}}
    store.projects.enter(1, "")
    store.projects.update(1, problem="No space left.", fix="Free some.")
    answer = ask(client, "/job_status", {"job": job})
    assert answer == {"job_status": "failed", "error": "No space left. Free some."}
    store.projects.update(1, completed=2)
    assert ask(client, "/job_status", {"job": job})["job_status"] == "finished"


@pytest.mark.parametrize("job", ["", "1", "1.", ".1", "x.1", "9.1", "1.9", 7, None, ["1.1"]])
def test_a_job_that_nobody_was_given_is_gone(client: FlaskClient, store: Store, job: Any) -> None:
    known(store)
    assert ask(client, "/job_status", {"job": job}, 410)["error"]


def test_versions_are_those_shown_or_ready_newest_first_and_once(
    client: FlaskClient, store: Store
) -> None:
    states = ["previous", "live", "abandoned", "ready", "publishing"]
    for number, state in enumerate(states):
        for project in (1, 2):
            store.publications.save(
                Publication(
                    project_id=project,
                    name=f"v{number}",
                    round=number,
                    attempt=1,
                    state=state,
                    created_at=number,
                )
            )
    assert client.get("/versions").get_json() == {"versions": []}
    known(store, 1)
    known(store, 2)
    assert client.get("/versions").get_json() == {"versions": ["v3", "v1", "v0"]}


# -- errors and access ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "data", "code"),
    [
        ("GET", "/nowhere", b"", 404),
        ("POST", "/projects/x", b"{}", 404),
        ("GET", "/projects/77", b"", 404),
        ("GET", "/predict", b"", 405),
        ("DELETE", "/health", b"", 405),
        ("POST", "/setup", b"{", 400),
        ("POST", "/setup", b"", 400),
        ("POST", "/setup", b"\xff\xfe\xff", 400),
        ("POST", "/webhook", b"[]", 400),
        ("POST", "/predict", b'"x"', 400),
        ("POST", "/job_status", b"null", 400),
        ("POST", "/predict", b'{"tasks": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        ("POST", "/setup", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400),
        ("POST", "/webhook", b" " * 50_000_001, 413),
    ],
)
def test_every_refusal_is_json_with_a_message(
    client: FlaskClient, method: str, path: str, data: bytes, code: int
) -> None:
    response = client.open(path, method=method, data=data)
    assert response.status_code == code
    assert response.content_type == "application/json"
    assert response.get_json()["error"]


def test_a_wrong_method_still_tells_the_right_ones(client: FlaskClient) -> None:
    assert "POST" in client.get("/predict").headers["Allow"]


def test_a_body_is_read_as_json_whatever_type_it_claims(client: FlaskClient) -> None:
    response = client.post("/webhook", data=b'{"action": "X"}', content_type="text/plain")
    assert response.get_json()["status"] == "ignored"


def test_a_defect_in_one_draft_costs_that_draft_alone(tmp_path: Path, store: Store) -> None:
    def first_broken(project_id: int, task_id: int) -> list[dict[str, Any]]:
        return [REGION] if task_id == 2 else forbidden(project_id, task_id)

    drawing(store, {1: "a.png", 2: "b.png"})
    client = create_app(Settings(data_dir=tmp_path), store, first_broken).test_client()
    answer = ask(client, "/predict", {"project": 1, "tasks": [{"id": 1}, {"id": 2}]})
    assert [one["result"] for one in answer["results"]] == [[], [REGION]]


def test_an_unexpected_error_is_logged_under_the_id_that_the_caller_gets(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = "Smith"

    def broken() -> list[Any]:
        raise RuntimeError(patient)

    monkeypatch.setattr(store.projects, "all", broken)
    lines: list[str] = []
    handler = logging.Handler()
    handler.setFormatter(JsonFormatter())
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    logging.getLogger("backend.web.app").addHandler(handler)
    response = client.get("/versions")
    logging.getLogger("backend.web.app").removeHandler(handler)
    answer = response.get_json()
    assert response.status_code == 500
    assert answer.keys() == {"error", "id"}
    assert answer["error"] == "internal error"
    [line] = lines
    assert json.loads(line)["request"] == answer["id"]
    assert "RuntimeError" in json.loads(line)["exception"]
    assert patient not in line


@pytest.fixture
def guarded(tmp_path: Path, store: Store) -> FlaskClient:
    known = Settings(
        data_dir=tmp_path, basic_auth_user="studio", basic_auth_pass=SecretStr("geheim")
    )
    return create_app(known, store, forbidden).test_client()


def basic(pair: bytes) -> str:
    return "Basic " + base64.b64encode(pair).decode()


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Basic é",
        "Bearer abc",
        "Bearer é",
        basic(b"studio"),
        basic(b"studio:wrong"),
        basic("stüdio:geheim".encode()),
        basic("studio:gehäim".encode("latin-1")),
        basic(b"studio:geheimx"),
        basic("studio:gehäim".encode()),
    ],
)
def test_without_the_password_every_route_but_health_answers_401(
    guarded: FlaskClient, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/versions", "/metrics", "/projects", "/projects/1", "/nowhere"):
        response = guarded.get(path, headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic")
        assert response.get_json()["error"]
    for path in POSTS:
        assert guarded.post(path, json={}, headers=headers).status_code == 401
    assert guarded.get("/health", headers=headers).status_code == 200
    assert guarded.get("/", headers=headers).status_code == 200


def test_health_tells_what_is_wrong_only_to_whoever_sends_the_password(
    guarded: FlaskClient, store: Store
) -> None:
    known(store, 3, problem="The token was refused.")
    up = {"status": "UP", "model_class": "Firstlight"}
    for path in ("/", "/health"):
        assert guarded.get(path).get_json() == up
        told = guarded.get(path, headers={"Authorization": basic(b"studio:geheim")}).get_json()
        assert told == {**up, "problems": ["project 3: The token was refused."], "warnings": []}


@pytest.mark.parametrize("path", ["/health", "/ready", "/versions", "/metrics", "/projects", "/x"])
def test_no_answer_is_kept_by_anybody_on_the_way(client: FlaskClient, path: str) -> None:
    assert client.get(path).headers["Cache-Control"] == "no-store"


def test_a_refused_event_is_shown_where_its_project_is_shown(
    guarded: FlaskClient, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    known(store, 1)
    signed = {"Authorization": basic(b"studio:geheim")}
    with caplog.at_level("WARNING"):
        for name in ("annotation_created", "tasks_created"):
            assert guarded.post("/webhook", json=recorded(name)).status_code == 401
    assert [record.getMessage() for record in caplog.records] == [
        "an event was refused: it came without the webhook secret"
    ]
    state = guarded.get("/projects/1?format=json", headers=signed).get_json()
    assert state["events_refused_since"] == the(store, 1).webhook_refused_at > 0
    page = guarded.get("/projects/1?format=html", headers=signed).text
    text = guarded.get("/projects/1?format=text", headers=signed).text
    [problem] = guarded.get("/health", headers=signed).get_json()["problems"]
    for said in (page, text, problem):
        assert "events for project 1 are refused since" in said
        assert "doctor 1 --fix" in said
    assert counters(store) == (1, False)


def test_an_event_that_is_taken_ends_the_word_of_refused_ones(
    guarded: FlaskClient, store: Store
) -> None:
    known(store, 1)
    event = recorded("annotation_created")
    guarded.post("/webhook", json=event)
    signed = {"Authorization": basic(b"studio:geheim")}
    guarded.post("/webhook", json=recorded("start_training"), headers=signed)
    assert the(store, 1).webhook_refused_at, "the button says nothing of the webhook"
    headers = {SECRET_HEADER: store.installation.webhook_secret}
    assert guarded.post("/webhook", json=event, headers=headers).status_code == 201
    assert not the(store, 1).webhook_refused_at


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"project": 77}', b'{"project": 1}' + b" " * 1_000_000]
)
def test_a_refused_event_of_nobody_we_know_is_not_written_down(
    guarded: FlaskClient, store: Store, body: bytes
) -> None:
    known(store, 1)
    assert guarded.post("/webhook", data=body).status_code == 401
    assert [project.id for project in store.projects.all()] == [1]
    assert not the(store, 1).webhook_refused_at


def test_the_right_password_opens_every_route(guarded: FlaskClient) -> None:
    headers = {"Authorization": basic(b"studio:geheim")}
    assert guarded.get("/versions", headers=headers).status_code == 200
    assert guarded.post("/webhook", json={}, headers=headers).status_code == 200


# -- robustness -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=12)
    | st.sampled_from(["1", "1.5", CONFIG, "ANNOTATION_CREATED", "START_TRAINING", "1.1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(["id", "project", "tasks", "data", "label_config", "alpha"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
BODIES = JSON | st.fixed_dictionaries(
    {},
    optional={
        key: JSON
        for key in ("project", "schema", "extra_params", "tasks", "action", "job", "annotation")
    },
)


@pytest.mark.seconds
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(POSTS), body=BODIES)
def test_no_json_makes_the_service_fail(
    client: FlaskClient, store: Store, path: str, body: object
) -> None:
    if store.projects.get(1) is None:
        drawing(store, {1: "a.png"})
    response = client.post(path, data=json.dumps(body))
    assert response.status_code < 500, response.text
    assert response.get_json()
    if response.status_code == 200 and path == "/predict" and isinstance(body, dict):
        tasks = body.get("tasks")
        many = len(tasks) if isinstance(tasks, list) else int(isinstance(tasks, dict))
        assert len(response.get_json()["results"]) == many


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(POSTS), data=st.binary(max_size=60))
def test_no_bytes_make_the_service_fail(client: FlaskClient, path: str, data: bytes) -> None:
    response = client.post(path, data=data)
    assert response.status_code < 500
    assert response.get_json()


@given(value=JSON)
def test_an_id_is_a_positive_number_that_a_database_can_hold_or_nothing(value: object) -> None:
    found = identifier(value)
    assert found is None or 0 < found < 2**31


HEAVY = {"torch", "sklearn", "label_studio_sdk", "timm", "umap", "openTSNE", "dbos", "PIL"}
LIGHT = """
import json, sys
from pathlib import Path
from backend.web.app import MOST_PARTS, create_app
from backend.web.ml_protocol import live_drafts
from backend.settings import Settings
from backend.storage.store import open_store
settings = Settings(data_dir=Path(sys.argv[1]))
store = open_store(settings.database)
store.create()
client = create_app(settings, store, live_drafts(settings, store)).test_client()
setup, event, task = (json.loads(Path(name).read_text())["body"] for name in sys.argv[2:])
calls = (
    lambda: client.get("/health"),
    lambda: client.post("/setup", json=setup),
    lambda: client.post("/webhook", json=event),
    lambda: client.post("/predict", json=task),
)
for call in calls:
    assert call().status_code == 200
print(json.dumps(list(sys.modules)))
"""


@pytest.mark.seconds
def test_what_needs_no_network_is_answered_without_one_in_memory(
    tmp_path: Path,
) -> None:
    files = [str(WIRE / f"{name}.json") for name in ("setup", "annotation_created", "predict")]
    run = subprocess.run(
        [sys.executable, "-c", LIGHT, str(tmp_path), *files],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    assert not HEAVY & {name.partition(".")[0] for name in json.loads(run.stdout)}


@pytest.mark.parametrize("name", ["host.docker.internal", "scans.local", "a.localhost"])
def test_a_name_that_is_never_public_opens_the_service(client: FlaskClient, name: str) -> None:
    assert client.get("/health", headers={"Host": f"{name}:9090"}).status_code == 200
    assert client.get("/health", headers={"Host": f"{name}.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/predict", "/webhook", "/setup"])
def test_a_body_of_very_many_objects_is_refused_before_it_is_read(
    client: FlaskClient, path: str
) -> None:
    body = b'{"project": 1, "tasks": [' + b"{}," * MOST_PARTS + b"{}]}"
    response = client.post(path, data=body)
    assert response.status_code == 413
    assert "Send less at once" in response.get_json()["error"]
