"""Who is let in, what is compared how, and what must never come out."""

from __future__ import annotations

import ast
import base64
import hmac
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dbos._logger import init_logger
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.routing import Rule

from backend import logs
from backend.errors import FirstlightError
from backend.label_studio.credentials import SECRET_HEADER
from backend.logs import JsonFormatter
from backend.settings import Settings
from backend.storage.store import Store
from backend.web.app import create_app
from backend.web.ml_protocol import live_drafts
from tests.backend.conftest import the
from tests.backend.fake_label_studio import CONFIG
from tests.backend.site import Site

ROOT = Path(__file__).parents[3]
USER, PASSWORD, SECRET = "studio", "a-long-password-1", "a-webhook-secret-1"
SIGNED = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
OPEN_TO_ALL = {"/", "/health", "/ready"}


def guarded(settings: Settings, store: Store) -> FlaskClient:
    access = {
        "basic_auth_user": USER,
        "basic_auth_pass": SecretStr(PASSWORD),
        "webhook_secret": SecretStr(SECRET),
    }
    closed = settings.model_copy(update=access)
    return create_app(closed, store, live_drafts(closed, store)).test_client()


# -- who is let in --------------------------------------------------------------------------------


def routes(client: FlaskClient) -> Iterator[tuple[str, str]]:
    """Yield every path with every method that it knows."""
    found: list[Rule] = list(client.application.url_map.iter_rules())
    for rule in found:
        for method in sorted(rule.methods or ()):
            yield re.sub("<[^>]*>", "3", str(rule)), method


REFUSED = (
    None,
    "",
    "Basic",
    "Bearer é",
    "Bearer " + SIGNED.partition(" ")[2],
    "Basic " + base64.b64encode(f"{USER}:{PASSWORD}"[:-1].encode()).decode(),
    "Basic " + base64.b64encode(f"{USER}:{PASSWORD}\0".encode()).decode(),
    "Basic " + base64.b64encode("stüdio:gehäim".encode("latin-1")).decode(),
    "Basic é",
)


@pytest.mark.parametrize("header", REFUSED)
def test_whatever_route_there_is_answers_401_without_the_password(
    settings: Settings, store: Store, header: str | None
) -> None:
    client = guarded(settings, store)
    headers = {} if header is None else {"Authorization": header}
    found = list(routes(client))
    assert len(found) >= 30
    for path, method in found:
        code = client.open(path, method=method, headers=headers).status_code
        assert (code == 200) if path in OPEN_TO_ALL else (code == 401), (method, path)
    for path in ("/nowhere", "/health/x", "//health", "/HEALTH", "/projects/../health"):
        assert client.get(path, headers=headers).status_code == 401


def test_whatever_route_there_is_opens_with_the_password_and_the_secret(
    settings: Settings, store: Store
) -> None:
    client = guarded(settings, store)
    headers = {"Authorization": SIGNED, SECRET_HEADER: SECRET}
    for path, method in routes(client):
        assert client.open(path, method=method, headers=headers).status_code not in {401, 403}


def test_password_and_secret_are_compared_whole_and_in_constant_time(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    client = guarded(settings, store)
    wrong = "Basic " + base64.b64encode(b"x:y").decode()
    pair, secret = f"{USER}:{PASSWORD}".encode(), SECRET.encode()
    for path, sent, given, code, expected in (
        ("/webhook", wrong, "", 401, secret),
        ("/webhook", SIGNED, "s", 401, secret),
        ("/webhook", "", SECRET, 200, secret),
        ("/setup", wrong, SECRET, 401, pair),
        ("/setup", SIGNED, "", 200, pair),
    ):
        compared.clear()
        headers = {"Authorization": sent, SECRET_HEADER: given}
        assert client.post(path, json={}, headers=headers).status_code == code
        assert [other for _, other in compared] == [expected]


def test_a_secret_is_compared_nowhere_but_in_constant_time() -> None:
    """Where the secrets are read, they are handed on, tested for being there, or digested."""
    sources = [ROOT / "backend/web/auth.py", ROOT / "backend/label_studio/credentials.py"]
    trees = [ast.parse(source.read_text()) for source in sources]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert {ast.unparse(node) for node in nodes} == {
        "scheme.lower() == 'basic'",
        # What says where a request goes to and comes from.
        "path in PROBES",
        "path != WEBHOOK",
        "request.method in {'GET', 'HEAD', 'OPTIONS'}",
        "site in {'same-origin', 'none'}",
        "origin is None",
        "urlsplit(origin).netloc == request.host",
        "'.' not in name",
        "name in {_host_of(self._settings.public_url), self._settings.host.lower()}",
        "length is not None",
        "length <= REFUSED_BYTES",
        "response.status_code == 401",
    }


# -- what is never loaded -------------------------------------------------------------------------

UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS = {"eval", "exec", "compile", "__import__"}
SOURCES = sorted([*(ROOT / "backend").rglob("*.py"), *(ROOT / "model").rglob("*.py")])


def keyword(call: ast.Call, name: str) -> object:
    found = [one.value for one in call.keywords if one.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def dangers(source: str) -> Iterator[str]:
    """Yield what could run code that somebody hid in a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if is_unsafe(one))
        elif isinstance(node, ast.ImportFrom) and node.module in UNSAFE:
            yield node.module
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            yield from [node.attr] if node.attr != "UnpicklingError" else []
        elif isinstance(node, ast.Call):
            yield from dangerous_call(node)


def is_unsafe(module: ast.alias) -> bool:
    # By its own name pickle may be imported: for the error that torch raises, nothing else of it.
    return module.name.partition(".")[0] in UNSAFE and (module.name, module.asname) != (
        "pickle",
        None,
    )


def dangerous_call(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    if called in {"torch.load", "torch.jit.load", "torch.hub.load"}:
        yield from [called] if keyword(call, "weights_only") is not True else []
    elif called.startswith("yaml.") and "load" in called:
        yield from [called] if "safe" not in called else []
    elif called in RUNS or keyword(call, "allow_pickle") is True:
        yield called


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_be_made_to_run_what_lies_in_a_file(path: Path) -> None:
    assert not list(dangers(path.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b)",
        "import pickle as tin",
        "import dill",
        "from joblib import load",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "def f():\n    from pickle import loads",
        "eval(text)",
    ],
)
def test_the_look_for_what_runs_code_would_see_it(source: str) -> None:
    assert list(dangers(source))
    assert not list(dangers("np.load(path)\ntorch.load(path, weights_only=True)"))


# -- what never comes out -------------------------------------------------------------------------

CANARY = "c4n4ry"
PATIENT, NAME, TEXT = f"{CANARY}-patient", f"{CANARY}-file", f"{CANARY}-label"


class Everything(logging.Handler):
    """Keeps what every logger says, at any level, as the service would write it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(JsonFormatter().format(record))


@pytest.fixture
def said() -> Iterator[list[str]]:
    names = ("", "backend", "model", "waitress", "httpx", "httpcore", "dbos", "PIL", "sqlalchemy")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    handler = Everything()
    # The queues' own logger may hand nothing on.
    heard = [logger for logger in loggers if logger.name in {"root", "dbos"}]
    for logger in heard:
        logger.addHandler(handler)
    for logger in loggers[:4]:  # our own at their most talkative, libraries as `logs` sets them
        logger.setLevel(logging.DEBUG)
    for logger in loggers[4:]:
        logger.setLevel(logging.WARNING)
    yield handler.lines
    for logger in heard:
        logger.removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def spread(site: Site) -> None:
    """Put the canary wherever people and hospitals put what is nobody's business."""
    project = site.fake.projects[site.number]
    project.title = f"{CANARY}-title"
    project.label_config = CONFIG.replace('"Lung"', f'"{TEXT}" alias="Lung"')
    for task in site.tasks:
        old, new = f"/data/upload/{site.number}/{task}.png", f"/data/{NAME}-{task}.png"
        site.fake.files[new] = site.fake.files.pop(old)
        site.fake.change_data(task, image=new, name=PATIENT, born=f"{CANARY}-1970-01-01")
    broken = site.fake.add_task(site.number, f"{CANARY} no picture".encode(), name=PATIENT)
    path = site.fake.projects[site.number].tasks[broken]["data"]["image"]
    site.fake.change_data(broken, image=f"{path}?{PATIENT}")
    gone = site.fake.add_task(site.number, np.zeros((8, 8)), name=PATIENT)
    site.fake.change_data(gone, image=f"/data/{NAME}-gone.png")
    site.fake.change_data(site.fake.add_task(site.number), image=f"https://pacs.example/{NAME}.png")


def outages(site: Site) -> None:
    """Let Label Studio answer with what it was sent, and go away, in every part of a round."""
    for method, path in (
        ("GET", "tasks"),
        ("GET", "projects"),
        ("POST", "import"),
        ("PATCH", "ml"),
    ):
        site.store.projects.request_refresh(site.number)
        site.label(3)
        site.fake.fail(method, path, 500, detail=f"{PATIENT} in {NAME}", times=9)
        with suppress(FirstlightError):
            site.refresh()
        site.fake.heal()


@pytest.mark.slow
def test_no_token_and_nothing_of_a_patient_comes_out_of_rounds(
    site: Site, settings: Settings, said: list[str]
) -> None:
    spread(site)
    site.refresh()
    site.label(0, 1)
    site.fake.annotate(site.tasks[2], [{"type": "brushlabels", "value": {"text": PATIENT}}])
    site.refresh()
    outages(site)
    site.refresh()
    assert site.project.live_version.startswith("attention-unet"), "the rounds did take place"
    assert len(said) > 10
    app = create_app(settings, site.store, live_drafts(settings, site.store))
    client = app.test_client()
    told = [client.get("/health").text, client.get("/metrics").text, client.get("/versions").text]
    body = {"project": site.number, "label_config": CONFIG}
    tasks = [*site.fake.projects[site.number].tasks.values()]
    told.append(client.post("/predict", json={**body, "tasks": tasks[-3:]}).text)
    token = settings.label_studio_api_key.get_secret_value()
    for line in [*said, *told]:
        assert CANARY not in line
        assert token not in line


BODY = {
    "project": 1,
    "schema": f"<View><{CANARY}",
    "label_config": f"<View {CANARY}",
    "hostname": f"http://{CANARY}",
    "access_token": CANARY,
    "extra_params": f'{{"{CANARY}',
    "tasks": [{"id": 1, "data": {"image": f"/data/{CANARY}.png"}}, CANARY],
    "annotation": {"completed_by": {"email": f"{CANARY}@example.org"}},
    "action": CANARY,
    "job": CANARY,
}
HEADERS = {
    "Authorization": f"Basic {base64.b64encode(f'{CANARY}:{CANARY}'.encode()).decode()}",
    SECRET_HEADER: CANARY,
    "Cookie": f"sessionid={CANARY}",
}


@pytest.mark.parametrize("closed", [True, False])
def test_no_answer_and_no_log_repeats_a_body_or_a_credential(
    settings: Settings, store: Store, said: list[str], closed: bool
) -> None:
    client = (
        guarded(settings, store)
        if closed
        else create_app(settings, store, live_drafts(settings, store)).test_client()
    )
    store.projects.request_refresh(1)
    bodies = [json.dumps(BODY), json.dumps(CANARY), f'{{"{CANARY}', f'["{CANARY}"]', "[" * 10**5]
    for path, method in routes(client):
        for body in bodies:
            sent = {**HEADERS, "Content-Type": "application/json"}
            response = client.open(path, method=method, data=body, headers=sent)
            assert CANARY not in response.text, (method, path)
            assert CANARY not in str(response.headers)
    assert not [line for line in said if CANARY in line]
    assert CANARY not in client.get("/metrics").text + client.get("/health").text


@pytest.mark.parametrize(
    "name", ["projects.all", "projects.get", "projects.request_refresh", "publications.all"]
)
def test_an_internal_error_repeats_nothing_of_what_led_to_it(
    settings: Settings,
    store: Store,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    store.projects.request_refresh(1)
    client = create_app(settings, store, live_drafts(settings, store)).test_client()

    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError(f"no row for {PATIENT}")

    part, _, method = name.partition(".")
    monkeypatch.setattr(getattr(store, part), method, broken)
    answers = [
        client.open(path, method=method, json=BODY | {"action": "START_TRAINING"}).text
        for path, method in routes(client)
    ]
    assert any("internal error" in answer for answer in answers)
    assert not [line for line in [*answers, *said] if CANARY in line or "Traceback" in line]


def test_the_queues_log_as_we_do_and_quote_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    queues = logging.getLogger("dbos")
    queues.handlers.clear()
    logs.configure("INFO")
    init_logger()  # as every start of the queues does
    try:
        raise ValueError(PATIENT)
    except ValueError:
        queues.exception("a workflow failed")
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "a workflow failed"
    assert CANARY not in line


# -- what people typed ----------------------------------------------------------------------------

TYPED = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</script><script>alert(1)//",
    "{{ 7*7 }}{% debug %}",
    "\u2028alert(1)\u2029",
    "javascript:alert(1)",
    "<!--<svg/onload=alert(1)>",
)


@pytest.mark.parametrize("typed", TYPED)
def test_what_people_typed_is_text_on_every_page(
    settings: Settings, store: Store, typed: str
) -> None:
    store.projects.request_refresh(3)
    store.projects.update(3, title=typed, warnings=[typed], problem=typed, fix=typed)
    store.projects.update(3, options_problem=typed, label_config=CONFIG.replace("Lung", typed))
    store.scans.save(3, [{"id": 1, "url": typed, "group": typed}])
    store.scans.update(3, 1, problem=typed)
    client = create_app(settings, store, live_drafts(settings, store)).test_client()
    asked = {"Accept": "text/html"}
    pages = [
        client.get("/projects", headers=asked).text,
        client.get("/projects/3", headers=asked).text,
        client.post("/projects/3/rollback", headers=asked, data={"version": typed}).text,
    ]
    plain = client.get("/projects/9?format=html").text
    for page in pages:
        assert page.startswith("<!doctype html>")
        for tag in ("<script>", "<img src=x", "<svg", "<!--"):
            assert tag not in page
        assert "7*7" in page or "{{" not in typed, "a template is shown, not computed"
        assert 'href="javascript:' not in page
        assert not re.search(r"<script(?! src=\"/static/)", page), "no code but from our files"
    assert typed not in plain


@pytest.mark.parametrize("typed", TYPED)
def test_what_people_typed_is_no_page_where_it_is_json_or_text(
    settings: Settings, store: Store, typed: str
) -> None:
    """It is told as it is, and no browser takes it for a page."""
    store.projects.request_refresh(3)
    store.projects.update(3, title=typed, problem=typed)
    client = create_app(settings, store, live_drafts(settings, store)).test_client()
    for path in ("/projects", "/projects/3", "/projects/3/rounds.json", "/projects/3/map.json"):
        for kind in ("json", "text"):
            response = client.get(f"{path}?format={kind}")
            assert response.mimetype in {"application/json", "text/plain"}
            assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get("/projects/3?format=json").get_json()["title"] == typed
    assert the(store, 3).title == typed


def test_the_script_of_the_pages_puts_nothing_in_as_markup() -> None:
    script = (ROOT / "backend/web/project_page/static/page.js").read_text()
    for way in (
        r"(inner|outer)HTML\s*\+?=[^=]",
        "insertAdjacentHTML",
        r"document\.write",
        r"\beval\(",
    ):
        assert not re.search(way, script)


# -- what is too large ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50_000_000, 50_000_001])
def test_a_body_over_50_mb_is_refused_on_every_route_that_reads_one(
    settings: Settings, store: Store, size: int
) -> None:
    client = create_app(settings, store, live_drafts(settings, store)).test_client()
    posts = {
        path for path, method in routes(client) if method == "POST" and "/projects" not in path
    }
    assert posts == {"/setup", "/predict", "/webhook", "/job_status"}
    for path in posts:
        response = client.post(path, input_stream=io.BytesIO(b" " * size), content_length=size)
        assert response.status_code == (413 if size > 50_000_000 else 400)
        assert response.get_json()["error"]


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_a_body_nested_too_deeply_is_refused_on_every_route_that_reads_one(
    settings: Settings, store: Store, bracket: str
) -> None:
    client = create_app(settings, store, live_drafts(settings, store)).test_client()
    for path in ("/setup", "/predict", "/webhook", "/job_status"):
        response = client.post(path, data=bracket * 100_000)
        assert response.status_code == 400
        assert response.get_json() == {"error": "The body is nested too deeply."}
