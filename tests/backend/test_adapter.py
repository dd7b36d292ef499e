from __future__ import annotations

import importlib
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask, jsonify, request

from backend.errors import ConfigError
from backend.storage.store import Store, open_store
from backend.storage.tables import Publication
from backend.web.live_drafts import DraftProcess
from backend.web.ml_protocol import MOST_WAITING

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
WIRE = ROOT / "tests" / "wire"


class OldBase:
    """The contract of 1.0.9: made with a label config, told events by name."""

    def __init__(self, label_config: Any = None, train_output: Any = None, **kwargs: Any) -> None:
        self.label_config = label_config

    def predict(self, tasks: Any, **kwargs: Any) -> Any: ...

    def fit(self, tasks: Any, workdir: Any = None, **kwargs: Any) -> Any: ...


class NewBase:
    """The 2.x contract: made for each request, with a cache of strings and a setup hook."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        self.cache: dict[str, str] = {}
        self.setup()

    def set(self, key: str, value: str) -> None:
        self.cache[key] = value

    def setup(self) -> None: ...

    def predict(self, tasks: Any, context: Any = None, **kwargs: Any) -> Any: ...

    def fit(self, event: Any, data: Any, **kwargs: Any) -> Any: ...


def server_of(model_class: Any) -> Flask:
    """A server with the package's names of views and none of its answers."""
    server = Flask("stand-in")

    @server.post("/predict")
    def _predict() -> Any:
        body = request.get_json()
        return jsonify({"results": model_class(label_config="").predict(body["tasks"])})

    @server.post("/setup")
    def _setup() -> Any:
        return jsonify({"model_version": "INITIAL"})

    @server.post("/webhook")
    def webhook() -> Any:
        return jsonify({"status": "Unknown event"})

    @server.get("/health")
    def health() -> Any:
        return jsonify({"status": "UP"})

    add_old_routes(server)
    return server


def add_old_routes(server: Flask) -> None:
    """What release 1.0.9 has beside these: most of it fails, and it reads every body first."""

    @server.post("/train")
    def _train() -> Any:
        raise TypeError("train() got an unexpected keyword argument")

    @server.get("/is_training")
    def _is_training() -> Any:
        raise TypeError("is_training() missing an argument")

    @server.post("/versions")
    def get_version() -> Any:
        return jsonify({"versions": request.json["project"]})

    @server.before_request
    def log_request_info() -> None:
        server.logger.debug("Request body: %s", request.get_data())

    @server.errorhandler(IndexError)
    def index_error(error: IndexError) -> Any:
        return str(error), 500


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    store = open_store(f"sqlite:///{tmp_path / 'firstlight.sqlite'}")
    store.create()
    store.projects.request_refresh(1)
    store.projects.update(1, completed=1, full_sync=False)
    return store


@pytest.fixture
def kept_warm(monkeypatch: pytest.MonkeyPatch) -> list[DraftProcess]:
    """The drafts that would be kept warm, by a thread that nobody here would end."""
    found: list[DraftProcess] = []
    monkeypatch.setattr(DraftProcess, "keep_warm", lambda drafts: found.append(drafts))
    return found


@pytest.fixture
def adapter(
    monkeypatch: pytest.MonkeyPatch, store: Store, kept_warm: list[DraftProcess]
) -> Iterator[Callable[[type], Any]]:
    """Import the adapter over a stand-in of the package with the given base class."""

    def over(base: type) -> Any:
        for name, values in (
            ("label_studio_ml", {}),
            ("label_studio_ml.api", {"init_app": server_of}),
            ("label_studio_ml.model", {"LabelStudioMLBase": base}),
        ):
            module = ModuleType(name)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "backend.adapter", raising=False)
        return importlib.import_module("backend.adapter")

    yield over
    sys.modules.pop("backend.adapter", None)


def body(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((WIRE / f"{name}.json").read_text())["body"]
    return found


def wanted(store: Store) -> int:
    project = store.projects.get(1)
    assert project is not None
    return project.requested


def go_live(store: Store) -> None:
    store.publications.save(Publication(project_id=1, name="unet r0001", round=1, attempt=1))
    store.publications.go_live(1, "unet r0001")


def test_the_class_tells_the_2_x_base_the_live_version(
    adapter: Callable[[type], Any], store: Store
) -> None:
    firstlight = adapter(NewBase).Firstlight
    assert firstlight("1", "<View/>").cache == {
        "model_version": f"firstlight-{store.installation.id}"
    }
    go_live(store)
    assert firstlight("1", "<View/>").cache == {"model_version": "unet r0001"}


@pytest.mark.parametrize("base", [OldBase, NewBase])
def test_predict_answers_one_result_a_task_under_both_contracts(
    adapter: Callable[[type], Any], store: Store, base: type
) -> None:
    model = adapter(base).Firstlight(label_config="<View/>")
    version = f"firstlight-{store.installation.id}"
    empty = {"result": [], "score": 1.0, "model_version": version}
    assert model.predict([{"id": 1, "project": 1}, None], context=None) == [empty, empty]
    assert model.predict([]) == []


def test_the_network_of_live_drafts_is_loaded_before_one_is_asked_for(
    adapter: Callable[[type], Any], kept_warm: list[DraftProcess]
) -> None:
    adapter(NewBase).Firstlight.answers()
    assert len(kept_warm) == 1


def test_without_the_folder_of_click_model_there_is_no_server(
    adapter: Callable[[type], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLICK_MODEL", str(tmp_path / "model.onnx"))
    module = adapter(NewBase)
    with pytest.raises(ConfigError, match=r"CLICK_MODEL is .*model\.onnx, which is no folder"):
        module.create_app()


def test_predict_under_1_0_9_learns_the_project_from_the_tasks(
    adapter: Callable[[type], Any], store: Store
) -> None:
    go_live(store)
    model = adapter(OldBase).Firstlight(label_config="<View/>")
    [found] = model.predict([{"project": 1}])
    assert found["model_version"] == "unet r0001"


def test_predict_under_2_x_knows_the_project_from_the_object(
    adapter: Callable[[type], Any], store: Store
) -> None:
    go_live(store)
    [found] = adapter(NewBase).Firstlight("1", "<View/>").predict([{"id": 7}], context=None)
    assert found["model_version"] == "unet r0001"


def test_fit_leaves_a_hint_and_nothing_else_under_both_contracts(
    adapter: Callable[[type], Any], store: Store
) -> None:
    event = body("annotation_created")
    old = adapter(OldBase).Firstlight(label_config="<View/>")
    assert old.fit((), event="ANNOTATION_CREATED", data=event, job_id="1", workdir="x") is None
    assert wanted(store) == 2
    new = adapter(NewBase).Firstlight("1", "<View/>")
    assert new.fit("START_TRAINING", event) is None
    assert wanted(store) == 3


@pytest.mark.parametrize("arguments", [(), ([{"id": 1}], "a/folder"), ("START_TRAINING",)])
def test_fit_without_an_event_of_label_studio_does_nothing(
    adapter: Callable[[type], Any], store: Store, arguments: tuple[Any, ...]
) -> None:
    assert adapter(OldBase).Firstlight(label_config="<View/>").fit(*arguments) is None
    assert wanted(store) == 1


def test_the_server_answers_setup_and_every_event_as_the_own_one_does(
    adapter: Callable[[type], Any], store: Store
) -> None:
    go_live(store)
    client = adapter(OldBase).create_app().test_client()
    answer = client.post("/setup", json=body("setup")).get_json()
    assert answer.pop("method").startswith("firstlight")
    assert answer == {"model_version": "unet r0001", "problems": []}
    event = body("annotations_deleted")
    assert client.post("/webhook", json=event).get_json() == {"status": "ok"}
    assert wanted(store) == 2
    assert client.post("/webhook", data=b"{").status_code == 400


def test_the_server_tells_versions_and_jobs_which_the_package_cannot(
    adapter: Callable[[type], Any], store: Store
) -> None:
    go_live(store)
    client = adapter(NewBase).create_app().test_client()
    assert client.get("/versions").get_json() == {"versions": ["unet r0001"]}
    job = client.post("/webhook", json=body("start_training")).get_json()["job"]
    assert client.post("/job_status", json={"job": job}).get_json()["job_status"] == "queued"
    assert client.post("/job_status", json={"job": "1.99"}).status_code == 410


@pytest.mark.parametrize("sent", [b"{", b"[]", b"7"])
def test_a_bad_request_is_answered_with_a_sentence(
    adapter: Callable[[type], Any], store: Store, sent: bytes
) -> None:
    client = adapter(OldBase).create_app().test_client()
    answer = client.post("/predict", data=sent)
    assert answer.status_code == 400
    assert answer.get_json()["error"]


def test_the_server_asks_for_the_password_as_the_own_one_does(
    adapter: Callable[[type], Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASIC_AUTH_USER", "studio")
    monkeypatch.setenv("BASIC_AUTH_PASS", "secret")
    client = adapter(OldBase).create_app().test_client()
    assert client.post("/setup", json={}).status_code == 401
    assert client.post("/setup", json={}, auth=("studio", "secret")).status_code == 200
    assert client.get("/health").status_code == 200


def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIC_AUTH_USER", "studio")
    monkeypatch.setenv("BASIC_AUTH_PASS", "secret")


class Unread(io.BytesIO):
    """A body of so many bytes that nobody may read; the client asks for its length by seeking."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = self._length if whence == io.SEEK_END else offset
        return self._at

    def tell(self) -> int:
        return getattr(self, "_at", 0)

    def read(self, size: int | None = -1) -> bytes:
        raise AssertionError("the body was read")

    readinto = read1 = readline = read  # type: ignore[assignment]


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/train", "/versions", "/x"])
def test_no_body_is_read_before_the_password(
    adapter: Callable[[type], Any],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    refusing(monkeypatch)
    client = adapter(OldBase).create_app().test_client()
    answer = client.post(path, input_stream=Unread(600_000_000))
    assert answer.status_code == 401
    assert answer.get_json()["error"]


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/train"])
def test_a_body_over_50_mb_is_refused_unread(
    adapter: Callable[[type], Any], store: Store, path: str
) -> None:
    client = adapter(OldBase).create_app().test_client()
    answer = client.post(path, input_stream=Unread(60_000_000))
    assert answer.status_code == 413
    assert answer.get_json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "data", "code"),
    [
        ("POST", "/train", b"{", 400),
        ("POST", "/train", b"[]", 400),
        ("GET", "/train", b"", 405),
        ("POST", "/is_training", b"", 405),
        ("GET", "/is_training", b"", 200),
        ("GET", "/is_training?project=1.5", b"", 200),
        ("POST", "/versions", b"{", 200),
        ("DELETE", "/versions", b"", 405),
        ("PUT", "/setup", b"", 405),
        ("GET", "/nowhere", b"", 404),
    ],
)
def test_whatever_comes_is_answered_with_json(
    adapter: Callable[[type], Any],
    store: Store,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    data: bytes,
    code: int,
) -> None:
    answer = adapter(OldBase).create_app().test_client().open(path, method=method, data=data)
    assert answer.status_code == code
    assert isinstance(answer.get_json(), dict)
    assert not caplog.records


def test_the_former_way_to_train_asks_for_a_refresh(
    adapter: Callable[[type], Any], store: Store
) -> None:
    client = adapter(OldBase).create_app().test_client()
    answer = client.post("/train", json={"project": "1.1795391735", "annotations": []})
    assert answer.get_json() == {"status": "ok", "job": "1.2"}
    assert client.get("/is_training?project=1.5").get_json() == {"is_training": False}
    store.projects.enter(1, "train")
    assert client.get("/is_training?project=1.5").get_json() == {"is_training": True}


def test_events_are_answered_with_the_codes_of_the_own_server(
    adapter: Callable[[type], Any], store: Store
) -> None:
    client = adapter(OldBase).create_app().test_client()
    assert client.post("/webhook", json=body("annotation_created")).status_code == 201
    unknown = client.post("/webhook", json={"action": "PROJECT_DELETED", "project": 1})
    assert (unknown.status_code, unknown.get_json()["status"]) == (200, "ignored")


def test_the_server_refuses_what_the_own_one_refuses(
    adapter: Callable[[type], Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = adapter(OldBase).create_app().test_client()
    evil = {"Host": "evil.example"}
    assert client.post("/setup", json={"project": 77}, headers=evil).status_code == 403
    assert store.projects.get(77) is None
    refusing(monkeypatch)
    client = adapter(OldBase).create_app().test_client()
    event = body("annotation_created")
    assert client.post("/webhook", json=event).status_code == 401
    headers = {"X-Webhook-Secret": store.installation.webhook_secret}
    assert client.post("/webhook", json=event, headers=headers).status_code == 201
    assert client.get("/health").get_json() == {"status": "UP", "model_class": "Firstlight"}


STAND_IN = """
import logging, sys
from types import ModuleType
from flask import Flask

def init_app(model_class):
    server = Flask("stand-in")
    server.add_url_rule("/webhook", "webhook", lambda: "", methods=["POST"])
    server.add_url_rule("/health", "health", lambda: "")
    return server

for name, values in (
    ("label_studio_ml", {}),
    ("label_studio_ml.api", {"init_app": init_app}),
    ("label_studio_ml.model", {"LabelStudioMLBase": object}),
):
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(values)

from backend.adapter import create_app
"""
WAITS = """
import sqlite3
client = create_app().test_client()
writer = sqlite3.connect(sys.argv[1])
writer.execute("BEGIN IMMEDIATE")
print(client.post("/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": 1}}).json)
writer.rollback()
"""
LOGS = """
if sys.argv[1] == "own":
    logging.basicConfig(format="%(name)s says %(message)s", level="INFO")
create_app()
logging.getLogger("backend.test").info("hello")
"""


def run(script: str, argument: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, over a stand-in of the package."""
    return subprocess.run(
        [sys.executable, "-c", STAND_IN + script, argument],
        env={**os.environ, "DATA_DIR": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.slow
def test_a_hint_that_waits_for_the_database_is_stored_when_the_process_ends(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "firstlight.sqlite"
    said = run(WAITS, str(file), tmp_path)
    assert said.stdout == "{'status': 'ok'}\n"
    with closing(sqlite3.connect(file)) as reader:
        assert reader.execute("SELECT wanted FROM projects").fetchone() == (2,)


def test_logs_are_json_lines_where_nobody_else_has_set_them_up(tmp_path: Path) -> None:
    [line] = run(LOGS, "", tmp_path).stderr.splitlines()
    assert json.loads(line)["message"] == "hello"


def test_a_host_keeps_the_logging_that_it_has_set_up(tmp_path: Path) -> None:
    assert run(LOGS, "own", tmp_path).stderr == "backend.test says hello\n"


def test_the_documented_server_has_more_threads_than_can_wait_for_a_draft() -> None:
    [threads] = re.findall(
        r"--threads=(\d+) .*backend\.adapter", (ROOT / "docs/adapter.md").read_text()
    )
    assert int(threads) > MOST_WAITING


REAL = """
import json, sys
from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase
from backend.adapter import Firstlight, create_app

plain = sys.argv[1] == "plain"
assert issubclass(Firstlight, LabelStudioMLBase)
client = (init_app(Firstlight, model_dir=sys.argv[2]) if plain else create_app()).test_client()

def ask(name):
    request = json.load(open(f"tests/wire/{name}.json"))
    response = client.post(request["path"], json=request["body"])
    return [response.status_code, response.get_json()]

found = {"health": client.get("/health").get_json(), "setup": ask("setup")}
found["predict"] = ask("predict")
if not plain:  # the package would start a process for it
    found["webhook"] = ask("annotations_deleted")
    found["versions"] = client.get("/versions").get_json()
    for name, answer in (
        ("train", client.post("/train", json={"project": 77})),
        ("is_training", client.get("/is_training")),
        ("post_versions", client.post("/versions", data="{")),
    ):
        found[name] = [answer.status_code, answer.get_json()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the released package, on top of our own packages."""
    venv = tmp_path_factory.mktemp("label-studio-ml") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (packages / "requirements.pth").write_text(ours)  # stands for requirements.txt
    interpreter = venv / "bin" / "python"
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-deps", "-r", str(ROOT / "requirements-label-studio-ml.txt")]
    run = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"pip cannot install label-studio-ml here: {run.stderr.strip()[-300:]}")
    return interpreter


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["plain", "whole"])
def test_the_adapter_runs_under_the_released_package(
    python: Path, store: Store, tmp_path: Path, how: str
) -> None:
    run = subprocess.run(
        [python, "-c", REAL, how, str(tmp_path / "jobs")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DATA_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    version = f"firstlight-{store.installation.id}"
    results = [{"result": [], "score": 1.0, "model_version": version}] * 2
    assert found["health"]["status"] == "UP"
    assert found["predict"][0] == found["setup"][0] == 200
    assert found["predict"][1]["results"] == results
    if how == "whole":
        assert found["setup"][1].pop("method").startswith("firstlight")
        assert found["setup"][1] == {"model_version": version, "problems": []}
        assert found["webhook"] == [201, {"status": "ok"}]
        assert found["train"][0] == found["is_training"][0] == found["post_versions"][0] == 200
        assert found["versions"] == {"versions": []}
        assert wanted(store) == 2
