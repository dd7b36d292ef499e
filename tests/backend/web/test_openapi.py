from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from backend import __version__
from backend.exchange.export.format_names import DOWNLOADS
from backend.settings import Settings
from backend.storage import artifacts
from backend.storage.artifacts import ProjectFiles
from backend.storage.records import QueueRecord, write_queue
from backend.storage.store import Store, open_store
from backend.storage.tables import Publication
from backend.web import openapi
from backend.web.app import create_app
from backend.web.project_page import views
from backend.web.project_page.downloads import Downloads

PASSWORD = ("ada", "lovelace")
SIGNED = {"Authorization": f"Basic {b64encode(':'.join(PASSWORD).encode()).decode()}"}
NUMBER = 3
EXAMPLES = 40  # of each operation; a run takes about twenty seconds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A project with a queue, a label and a thumbnail-less scan."""
    folder = tmp_path_factory.mktemp("data")
    store = open_store(f"sqlite:///{folder / 'memory.sqlite'}")
    store.create()
    store.projects.request_refresh(NUMBER)
    store.scans.save(NUMBER, [{"id": task, "url": f"/{task}.png"} for task in (1, 2, 3)])
    store.rounds.of_workflow(NUMBER, "w1")
    files = ProjectFiles(folder / "projects" / str(NUMBER))
    queue = QueueRecord(order=[3, 1, 2], reasons=["a", "b", "c"], strategy="medoids", alpha=None)
    write_queue(files, 1, queue)
    (files.folder / artifacts.MODELS).mkdir()
    for name in ("v1", "v2"):
        version = Publication(project_id=NUMBER, name=name, round=1, attempt=1, published=[3, 1])
        store.publications.save(version)
        store.publications.go_live(NUMBER, name)
    store.rounds.close(NUMBER, 1, "v2")
    yield store
    store.close()


@pytest.fixture(scope="module")
def app(store: Store) -> Flask:
    user, password = PASSWORD
    folder = Path(str(store.engine.url.database)).parent
    known = Settings(data_dir=folder, basic_auth_user=user, basic_auth_pass=SecretStr(password))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "RECORDS", 10_000)  # schemathesis never closes an answer
        return create_app(known, store, lambda project, task: [])


def test_every_route_of_the_pages_and_probes_is_described(app: Flask) -> None:
    found = openapi.document(app, has_password=True)
    described = {path.replace("{", "<").replace("}", ">") for path in found["paths"]}
    routes = {openapi._ARGUMENT.sub(r"<\3>", rule.rule) for rule in app.url_map.iter_rules()}
    # The others are Label Studio's, and /static holds the files of the pages.
    others = {"/", "/setup", "/predict", "/webhook", "/versions", "/job_status", "/static/<name>"}
    assert described == routes - others
    assert set(openapi.OPERATIONS) <= set(app.view_functions)


def test_the_document_says_which_release_it_describes_and_where_the_password_counts(
    app: Flask,
) -> None:
    found = app.test_client().get("/openapi.json", auth=PASSWORD).get_json()
    assert (found["openapi"], found["info"]["version"]) == ("3.1.0", __version__)
    secured = {path: next(iter(one.values()))["security"] for path, one in found["paths"].items()}
    open_paths = {path for path, needed in secured.items() if not needed}
    assert open_paths == {"/health", "/ready"}
    assert app.test_client().get("/openapi.json").status_code == 401


def test_without_a_password_none_is_asked_for(app: Flask) -> None:
    found = openapi.document(app, has_password=False)
    assert not any(one["security"] for path in found["paths"].values() for one in path.values())


def test_a_rollback_without_a_version_is_told_that_it_is_missing(app: Flask) -> None:
    answer = app.test_client().post(f"/projects/{NUMBER}/rollback", auth=PASSWORD)
    assert (answer.status_code, answer.get_json()) == (400, {"error": "version is missing."})


def test_the_formats_of_a_download_are_those_of_the_page(app: Flask) -> None:
    form = openapi.document(app, has_password=False)["components"]["schemas"]["ExportForm"]
    assert form["properties"]["to"]["enum"] == [*DOWNLOADS]


# -- the app against its own document -------------------------------------------------------------


@pytest.fixture(scope="module")
def schema(app: Flask) -> Any:
    schemathesis = pytest.importorskip("schemathesis")
    client = app.test_client()
    found = schemathesis.openapi.from_dict(client.get("/openapi.json", auth=PASSWORD).get_json())
    found.app = app
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("known", [True, False], ids=["a known project", "any project"])
@pytest.mark.parametrize("name", [n.removeprefix("pages.") for n in openapi.OPERATIONS])
def test_the_app_answers_what_its_document_says(
    schema: Any, name: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from schemathesis import GenerationMode

    # Each export would start a process, and schemathesis never closes its file.
    monkeypatch.setattr(Downloads, "archive", lambda downloads, project, to: BytesIO())
    operation = schema.find_operation_by_id(name)
    fixed = {"project_id": NUMBER} if known and "{project_id}" in operation.path else {}
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases: st.SearchStrategy[Any] = st.sampled_from(modes).flatmap(
        lambda mode: operation.as_strategy(mode, path_parameters=fixed, headers=SIGNED)
    )

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def answers(case: Any) -> None:
        case.call_and_validate()

    answers()
