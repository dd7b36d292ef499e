from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from filelock import FileLock
from pydantic import SecretStr

from backend.commands import checks, doctor
from backend.commands.checks import Finding
from backend.errors import ConfigError, FirstlightError
from backend.label_studio.client import QUEUE, LabelStudio
from backend.label_studio.credentials import SECRET_HEADER
from backend.label_studio.publisher import Publisher
from backend.rounds import weights_hub
from backend.rounds.services import Services
from backend.settings import Settings
from backend.storage.store import Store, Version
from backend.storage.workers import LIVELY_SECONDS
from backend.web.app import create_app
from backend.web.ml_protocol import live_drafts
from model import encoders
from model.encoders import Encoder
from tests.backend.conftest import Clock, the
from tests.backend.fake_label_studio import URL, FakeLabelStudio

US = "http://127.0.0.1:9090"
PRIVATE = (403, "URL resolves to a reserved network address (block: 127.0.0.0/8)")
LEGACY_OFF = (
    "Authentication token no longer valid: legacy token authentication has been disabled for this "
    "organization"
)


@pytest.fixture
def number(fake: FakeLabelStudio, store: Store, services: Services) -> int:
    """A project that is connected and has a queue of three scans."""
    number = fake.add_project()
    fake.connect(number, url=US)
    store.want(number)
    services.studio.ensure_webhook(number, f"{US}/webhook", {})
    tasks = [fake.add_task(number, np.full((16, 16), 0.5)) for _ in range(3)]
    store.save_tasks(number, [{"id": task, "url": ""} for task in tasks])
    desk = Publisher(services.settings, store, services.studio, number)
    version = desk.publish(
        Version(round=1, labels=0, model_key="", drafts=""), "cold-start", tasks, {}
    )
    store.go_live(number, version)
    desk.switch(version)
    store.update(number, done=1)
    return number


@pytest.fixture
def web(settings: Settings, store: Store) -> Iterator[httpx.Client]:
    with served(settings, store) as client:
        yield client


def served(settings: Settings, store: Store) -> httpx.Client:
    app = create_app(settings, store, live_drafts(settings, store))
    return httpx.Client(transport=httpx.WSGITransport(app=app))


def pixels() -> Encoder:
    return encoders.load("pixels")


def only(fake: FakeLabelStudio, kind: str = "entries") -> dict[str, Any]:
    [found] = getattr(fake, kind).values()
    return dict(found)


def mended(check: checks.Check) -> Finding:
    """Expect something wrong that can be fixed; fix it and look again."""
    finding = check()
    assert not finding.ok
    assert finding.mend
    assert finding.fix
    finding.fix()
    return check()


# -- the installation -----------------------------------------------------------------------------


def test_a_data_folder_that_cannot_be_written_is_said(settings: Settings, tmp_path: Path) -> None:
    assert checks.data_folder(settings).ok
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        checks.data_folder(settings.model_copy(update={"data_dir": tmp_path / "file"}))


def test_a_database_that_is_not_there_is_said(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    assert checks.database(settings).ok
    with pytest.raises(ConfigError, match="Point DATA_DIR at"):
        checks.database(settings.model_copy(update={"data_dir": tmp_path / "elsewhere"}))


def test_our_own_web_process_is_known_by_its_health(settings: Settings, web: httpx.Client) -> None:
    assert checks.web_process(settings, web).ok


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.ConnectError("no"), "Nothing answers at http://127.0.0.1:9090 (ConnectError)"),
        (httpx.Response(200, text="<html>"), "Something else answers"),
        (httpx.Response(200, json=["UP"]), "Something else answers"),
        (httpx.Response(200, json={"model_class": "Other"}), "Something else answers"),
    ],
)
def test_nobody_and_another_at_our_address_are_told_apart(
    settings: Settings, answer: httpx.Response | Exception, told: str
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with httpx.Client(transport=httpx.MockTransport(handler)) as web:
        finding = checks.web_process(settings, web)
    assert told in finding.what
    assert "python -m backend start" in finding.mend


def test_credentials_that_the_web_process_does_not_take_are_said_without_them(
    settings: Settings, store: Store
) -> None:
    guarded = settings.model_copy(update={"webhook_secret": SecretStr("hunter2")})
    other = settings.model_copy(update={"webhook_secret": SecretStr("hunter3")})
    with served(guarded, store) as web:
        assert checks.web_access(guarded, web).ok
        for wrong in (settings, other):
            finding = checks.web_access(wrong, web)
            assert not finding.ok
            assert "401" in finding.what
            assert "WEBHOOK_SECRET" in finding.mend
            assert "hunter" not in str(finding)
    assert store.projects() == [], "the trial changes nothing"


def test_a_worker_is_known_by_its_lock(settings: Settings) -> None:
    assert not checks.worker(settings).ok
    with FileLock(settings.data_dir / "firstlight.sqlite.worker.lock"):
        assert checks.worker(settings).ok
    finding = checks.worker(settings)
    assert not finding.ok
    assert "python -m backend start" in finding.mend


def test_on_a_database_that_many_share_workers_are_known_by_their_beats(
    settings: Settings, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.commands.connection.sqlite_path", lambda _: None)
    monkeypatch.setattr("backend.commands.connection.open_known", lambda _: store)
    assert not checks.worker(settings).ok
    store.join("one", "here", "1")
    store.join("two", "there", "1")
    assert "2 of them run" in checks.worker(settings).what
    clock.advance(LIVELY_SECONDS)
    assert not checks.worker(settings).ok


def test_the_encoder_and_its_device_are_named_and_a_substitute_is_said(
    settings: Settings, store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_hub, "fetch", lambda *given, **named: None)
    assert (
        checks.encoder(settings, lambda: checks.load_encoder(settings, None)).what
        == "pixels on cpu."
    )
    assert checks.load_encoder(settings, the(store, number)).name == "pixels"
    chosen = settings.model_copy(update={"encoder": "auto"})
    finding = checks.encoder(chosen, lambda: checks.load_encoder(chosen, None))
    assert finding.ok
    assert "efficientnet-lite0 on cpu" in finding.what
    assert "RadImageNet" in finding.mend


# -- Label Studio ---------------------------------------------------------------------------------


def test_label_studio_says_its_release_before_any_token_counts(
    settings: Settings, fake: FakeLabelStudio
) -> None:
    wrong = settings.model_copy(update={"label_studio_api_key": SecretStr("nobody's")})
    with fake.client() as client:
        studio = LabelStudio(wrong, client)
        assert "1.23.2 answers" in checks.label_studio(studio, URL).what
        with pytest.raises(FirstlightError, match=r"\(401\): Invalid token"):
            checks.token(studio)


def test_another_release_than_the_tested_one_is_noted(studio: LabelStudio) -> None:
    class Old(LabelStudio):
        def __init__(self) -> None: ...

        def server_version(self) -> str:
            return "1.12.0"

    assert "tested with 1.23" in checks.label_studio(Old(), URL).mend
    assert checks.label_studio(studio, URL).mend == ""


def test_a_token_is_said_by_its_kind(studio: LabelStudio, fake: FakeLabelStudio) -> None:
    assert checks.token(studio).what == "The legacy token is accepted."
    fake.fail("GET", "whoami", 401, detail=LEGACY_OFF)
    with pytest.raises(FirstlightError) as caught:
        checks.token(studio)
    assert "Personal Access Token" in caught.value.mend


def test_blocked_addresses_are_found_out_without_storing_anything(
    studio: LabelStudio, fake: FakeLabelStudio, number: int
) -> None:
    before = (dict(fake.entries), dict(fake.webhooks))
    assert checks.backend_address(studio, US).ok
    assert checks.webhook_address(studio, US).ok
    fake.banned = {"ml": PRIVATE, "webhooks": PRIVATE}
    for check in (checks.backend_address, checks.webhook_address):
        with pytest.raises(ConfigError) as caught:
            check(studio, US)
        assert "SSRF_PROTECTION_ENABLED=false" in caught.value.mend
    assert before == (fake.entries, fake.webhooks)


def test_a_host_without_a_dot_is_said_to_take_no_webhook(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    fake.banned = {"webhooks": (400, "Enter a valid URL.")}
    with pytest.raises(ConfigError, match="no dot"):
        checks.webhook_address(studio, "http://firstlight:9090")


# -- a project ------------------------------------------------------------------------------------


def test_a_project_in_order_has_nothing_wrong(services: Services, number: int) -> None:
    asked = [*checks.of_project(services, number, pixels), *checks.of_queue(services, number)]
    assert [name for name, check in asked if not check().ok] == []


def test_our_entry_is_told_from_others(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    fake.answers["http://them"] = "their model"
    fake.connect(number, url="http://them")
    assert checks.entry(services, number).ok


def test_no_entry_at_all_is_for_connect(services: Services, fake: FakeLabelStudio) -> None:
    finding = checks.entry(services, fake.add_project())
    assert "No backend entry" in finding.what
    assert "backend connect 1" in finding.mend
    assert finding.fix is None


def test_an_entry_whose_address_is_of_the_past_is_moved(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    title = only(fake)["title"]
    [entry], [hook] = fake.entries.values(), fake.webhooks.values()
    services.studio.entries(number)
    entry |= {"url": "http://old", "extra_params": {"alpha": 0.5}}
    hook["url"] = "http://old/webhook"
    fake.unreachable = {"http://old"}
    assert mended(lambda: checks.entry(services, number)).ok
    assert (entry["url"], entry["title"], entry["extra_params"]) == (US, title, {"alpha": 0.5})
    assert fake.webhooks == {}, "the old webhook goes, and the check of webhooks makes a new one"
    assert mended(lambda: checks.webhook(services, number)).ok


def test_an_entry_that_never_reached_us_is_registered_again(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [entry] = fake.entries.values()
    entry["model_version"] = ""
    fake.unreachable = {US}
    finding = checks.entry(services, number)
    assert "does not reach this service" in finding.what
    fake.unreachable = set()
    assert finding.fix
    finding.fix()
    assert checks.entry(services, number).ok


def test_another_service_at_our_address_is_not_taken_over(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    fake.answers[US] = "another installation"
    finding = checks.entry(services, number)
    assert "answers as another service, 'another installation'" in finding.what
    assert "DATA_DIR" in finding.mend
    assert finding.fix is None


def test_of_several_entries_that_are_ours_only_the_one_at_our_address_stays(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    fake.connect(number, url="http://also-us")
    services.studio.ensure_webhook(number, "http://also-us/webhook", {})
    services.studio.ensure_webhook(number, "http://them/webhook", {})
    fake.answers["http://them"] = "their model"
    fake.connect(number, url="http://them")
    assert mended(lambda: checks.entry(services, number)).ok
    assert {e["url"] for e in fake.entries.values()} == {US, "http://them"}
    assert {h["url"] for h in fake.webhooks.values()} == {f"{US}/webhook", "http://them/webhook"}


def test_of_several_entries_none_is_removed_when_none_is_at_our_address(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [entry] = fake.entries.values()
    entry["url"] = "http://us-1"
    fake.connect(number, url="http://us-2")
    assert checks.entry(services, number).fix is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"is_active": False}, "switched off"),
        ({"send_payload": False}, "sends no payload"),
        (
            {"send_for_all_actions": False, "actions": ["ANNOTATION_CREATED"]},
            "does not tell of ANNOTATIONS_DELETED, ANNOTATION_UPDATED, PROJECT_UPDATED",
        ),
        ({"url": "http://them/webhook"}, "not there"),
        ({"headers": {}}, f"header {SECRET_HEADER} is missing"),
        ({"headers": {SECRET_HEADER: "hunter3"}}, f"header {SECRET_HEADER} is another"),
    ],
)
def test_whatever_is_wrong_with_the_webhook_is_told_and_mended(
    services: Services, fake: FakeLabelStudio, number: int, change: dict[str, Any], told: str
) -> None:
    settings = services.settings.model_copy(update={"webhook_secret": SecretStr("hunter2")})
    guarded = replace(services, settings=settings)
    services.studio.ensure_webhook(number, f"{US}/webhook", {SECRET_HEADER: "hunter2"})
    assert checks.webhook(guarded, number).ok
    [hook] = fake.webhooks.values()
    hook |= change
    finding = checks.webhook(guarded, number)
    assert told in finding.what
    assert "hunter" not in str(finding)
    assert mended(lambda: checks.webhook(guarded, number)).ok
    theirs = [one for one in fake.webhooks.values() if one["url"] == "http://them/webhook"]
    assert len(theirs) == ("url" in change), "what leads to another address is another's"


def test_a_password_in_a_webhook_is_told_taken_out_and_to_be_changed(
    services: Services, store: Store, fake: FakeLabelStudio, number: int
) -> None:
    access = {"basic_auth_user": "us", "basic_auth_pass": SecretStr("hunter2")}
    guarded = replace(services, settings=services.settings.model_copy(update=access))
    [hook] = fake.webhooks.values()
    hook["headers"] = {"Authorization": "Basic dXM6aHVudGVyMg=="}
    finding = checks.webhook(guarded, number)
    assert f"header {SECRET_HEADER} is missing" in finding.what
    assert "every account can read it" in finding.what
    assert "change BASIC_AUTH_PASS" in finding.mend
    assert "dXM6" not in str(finding)
    assert mended(lambda: checks.webhook(guarded, number)).ok
    [hook] = fake.webhooks.values()
    assert hook["headers"] == {SECRET_HEADER: store.webhook_secret}


def test_refused_events_are_told_until_the_webhook_is_written_anew(
    services: Services, store: Store, number: int
) -> None:
    store.update(number, webhook_refused_at=1_800_000_000.0)
    finding = checks.webhook(services, number)
    assert "refuses its events" in finding.what
    assert mended(lambda: checks.webhook(services, number)).ok
    assert not the(store, number).webhook_refused_at


def test_a_password_that_the_web_process_does_not_take_is_said(
    settings: Settings, store: Store
) -> None:
    access = {"basic_auth_user": "us", "basic_auth_pass": SecretStr("hunter2")}
    guarded = settings.model_copy(update=access)
    other = guarded.model_copy(update={"basic_auth_pass": SecretStr("hunter3")})
    with served(guarded, store) as web:
        assert checks.web_access(guarded, web).ok
        finding = checks.web_access(other, web)
    assert not finding.ok
    assert "hunter" not in str(finding)


def test_a_webhook_that_tells_of_every_event_by_name_will_do(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [hook] = fake.webhooks.values()
    hook |= {"send_for_all_actions": False, "actions": [*checks.EVENTS, "LABEL_LINK_CREATED"]}
    assert checks.webhook(services, number).ok


def test_bad_options_are_told(services: Services, fake: FakeLabelStudio, number: int) -> None:
    [entry] = fake.entries.values()
    entry["extra_params"] = {"alhpa": 1}
    with pytest.raises(FirstlightError, match="alhpa: unknown option"):
        checks.options(services, number)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model version", {"model_version": "Firstlight"}),
        ("sampling", {"sampling": "Sequential sampling"}),
    ],
)
def test_what_label_studio_serves_is_compared_and_mended(
    services: Services, fake: FakeLabelStudio, number: int, name: str, change: dict[str, str]
) -> None:
    check = dict(checks.of_queue(services, number))[name]
    for key, value in change.items():
        setattr(fake.projects[number], key, value)
    assert mended(check).ok
    assert fake.projects[number].sampling == QUEUE


@pytest.mark.parametrize("name", ["model version", "title", "sampling"])
def test_a_round_that_is_just_switching_is_no_fault(
    services: Services, fake: FakeLabelStudio, store: Store, number: int, name: str
) -> None:
    check = dict(checks.of_queue(services, number))[name]
    store.update(number, step="switch", live_version="cold-start r0002 0a1b2c")
    fake.projects[number].sampling = "Sequential sampling"
    assert check().ok
    store.update(number, step="")
    assert not check().ok


def test_an_entry_is_ours_by_the_version_before_as_well_as_by_the_next(
    services: Services, store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = services.studio.entries

    def live_meanwhile(project_id: int) -> Any:
        found = asked(project_id)
        store.update(project_id, live_version="cold-start r0002 0a1b2c")
        return found

    monkeypatch.setattr(services.studio, "entries", live_meanwhile)
    assert checks.entry(services, number).ok


def test_a_title_that_is_not_the_live_version_is_mended(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    [entry] = fake.entries.values()
    entry["title"] = "Firstlight"
    assert mended(lambda: checks.title(services, number)).ok
    assert entry["title"] == fake.projects[number].model_version


def test_before_the_first_queue_nothing_of_it_is_missed(
    services: Services, fake: FakeLabelStudio, store: Store, project_id: int
) -> None:
    assert [name for name, check in checks.of_queue(services, project_id) if not check().ok] == []
    assert fake.projects[project_id].sampling == "Sequential sampling"


def test_a_queue_that_somebody_deleted_is_asked_for_anew(
    services: Services, fake: FakeLabelStudio, store: Store, number: int
) -> None:
    fake.projects[number].predictions = []
    store.update(number, fingerprint="as it was")
    finding = checks.queue(services, number)
    assert "are gone from Label Studio: 0 are left" in finding.what
    assert finding.fix
    finding.fix()
    project = the(store, number)
    assert (project.fingerprint, project.wanted > project.done) == ("", True)


def test_one_readable_image_among_the_first_is_enough(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    tasks = list(fake.projects[number].tasks.values())
    tasks[0]["data"]["image"] = "http://elsewhere/a.png"
    finding = checks.image(services, number, pixels)
    assert f"Task {tasks[1]['id']}: 16 x 16 pixels" in finding.what
    for task in tasks:
        task["data"]["image"] = "http://elsewhere/a.png"
    with pytest.raises(FirstlightError, match="not allowed") as caught:
        checks.image(services, number, pixels)
    assert f"Task {tasks[0]['id']}" in caught.value.what


def test_an_image_is_fetched_anew_and_not_kept(
    services: Services, fake: FakeLabelStudio, number: int
) -> None:
    assert checks.image(services, number, pixels).ok
    fake.files.clear()
    with pytest.raises(FirstlightError, match="404"):
        checks.image(services, number, pixels)


def test_a_project_without_tasks_has_no_image_to_try(services: Services, project_id: int) -> None:
    assert "no tasks" in checks.image(services, project_id, pixels).what


def test_what_rounds_stumble_over_is_told(store: Store, number: int) -> None:
    assert checks.rounds(store, number).ok
    assert not checks.rounds(store, 99).ok
    store.enter(number, "train")
    assert "train" in checks.rounds(store, number).what
    store.update(number, problem="It broke.", mend="Glue it.")
    finding = checks.rounds(store, number)
    assert (finding.ok, finding.what, finding.mend) == (False, "It broke.", "Glue it.")
    store.update(number, disconnected=True)
    assert f"connect {number}" in checks.rounds(store, number).mend


# -- the whole examination ------------------------------------------------------------------------


def examined(
    services: Services, web: httpx.Client, project: int | None, *, fix: bool = False
) -> dict[str, Finding]:
    """Look at everything, with a worker beside it."""
    with FileLock(services.settings.data_dir / "firstlight.sqlite.worker.lock"):
        found = doctor.examine(
            services.settings, project, build=lambda *_: services, web=web, fix=fix
        )
        return {one.name: one for one in found}


def test_everything_is_looked_at_and_said_in_lines_and_as_json(
    services: Services, web: httpx.Client, number: int
) -> None:
    found = examined(services, web, number)
    assert [one.what for one in found.values() if not one.ok] == []
    assert set(found) >= {"database", "worker", "token", "encoder", "webhook", "queue", "image"}
    assert doctor.summary(list(found.values())) == f"All {len(found)} checks are ok."
    rows = json.loads(doctor.document(found.values()))
    assert [row["name"] for row in rows] == list(found)


def test_without_a_project_only_the_installation_is_looked_at(
    services: Services, web: httpx.Client
) -> None:
    found = examined(services, web, None)
    assert "encoder" in found
    assert "project" not in found


def test_a_fix_is_told_as_such_and_nothing_is_fixed_unasked(
    services: Services, web: httpx.Client, fake: FakeLabelStudio, number: int
) -> None:
    fake.webhooks.clear()
    assert not examined(services, web, number)["webhook"].ok
    assert fake.webhooks == {}
    finding = examined(services, web, number, fix=True)["webhook"]
    assert finding.ok
    assert doctor.line(finding).startswith("mended webhook: ")
    assert "it is not there" in finding.what


def test_a_fix_that_fails_is_told_with_its_reason(
    services: Services, web: httpx.Client, fake: FakeLabelStudio, number: int
) -> None:
    fake.webhooks.clear()
    fake.banned = {"webhooks": PRIVATE}
    finding = examined(services, web, number, fix=True)["webhook"]
    assert not finding.ok
    assert "could not be mended" in finding.what
    assert "reserved network address" in finding.what


def test_what_rests_on_something_wrong_is_not_asked(
    services: Services, web: httpx.Client, fake: FakeLabelStudio, number: int
) -> None:
    fake.fail("GET", "whoami", 401, detail="Invalid token.")
    found = examined(services, web, number)
    assert {name for name, one in found.items() if not one.ok} == {"token", "project"}
    assert "backend address" not in found
    fake.fail("GET", "api/version", httpx.ConnectError)
    found = examined(services, web, number)
    assert {name for name, one in found.items() if not one.ok} == {"Label Studio", "project"}
    assert "LABEL_STUDIO_URL" in found["Label Studio"].mend


def test_no_token_and_no_database_still_leave_the_rest_to_be_looked_at(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    empty = settings.model_copy(
        update={"data_dir": tmp_path / "new", "label_studio_api_key": SecretStr("")}
    )

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    with httpx.Client(transport=httpx.MockTransport(refuse)) as web:
        found = list(doctor.examine(empty, 1, build=lambda *_: services, web=web))
    wrong = [one.name for one in found if not one.ok]
    assert wrong == ["database", "worker", "web process", "token"]
    assert "4 of 6 checks are wrong: database, worker" in doctor.summary(found)
    assert doctor.line(found[2]).startswith("WRONG  database: Nothing is known yet")
