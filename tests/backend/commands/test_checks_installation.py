from __future__ import annotations

from pathlib import Path
from shutil import copytree

import httpx
import pytest
from filelock import FileLock
from pydantic import SecretStr

from backend.commands import checks_installation
from backend.errors import ConfigError, FirstlightError
from backend.label_studio.client import LabelStudio
from backend.rounds.maps import weights_hub
from backend.settings import Settings
from backend.storage.store import Store
from backend.storage.workers import LIVELY_SECONDS
from tests.backend.commands.conftest import US, served
from tests.backend.conftest import Clock, the
from tests.backend.fake_label_studio import URL, FakeLabelStudio
from tests.model import two_part_files

LEGACY_OFF = (
    "Authentication token no longer valid: legacy token authentication has been disabled for this "
    "organization"
)
PRIVATE = (403, "URL resolves to a reserved network address (block: 127.0.0.0/8)")


def test_a_data_folder_that_cannot_be_written_is_said(settings: Settings, tmp_path: Path) -> None:
    assert checks_installation.data_folder(settings).ok
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        checks_installation.data_folder(settings.model_copy(update={"data_dir": tmp_path / "file"}))


def test_a_database_that_is_not_there_is_said(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    assert checks_installation.database(settings).ok
    with pytest.raises(ConfigError, match="Point DATA_DIR at"):
        checks_installation.database(
            settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
        )


def test_a_sqlite_that_is_too_old_for_dbos_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.worker.jobs_database.SQLITE", (3, 42, 0))
    assert checks_installation.jobs(settings).ok
    monkeypatch.setattr("backend.worker.jobs_database.SQLITE", (3, 40, 1))
    monkeypatch.setattr("backend.worker.jobs_database.PYTHON", (3, 12))
    with pytest.raises(ConfigError, match=r"SQLite 3\.40\.1.* DBOS needs SQLite 3\.42"):
        checks_installation.jobs(settings.model_copy(update={"database_url": ""}))


def test_our_own_web_process_is_known_by_its_health(settings: Settings, web: httpx.Client) -> None:
    assert checks_installation.web_process(settings, web).ok


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            httpx.ConnectError("no"),
            "http://127.0.0.1:9090 does not answer (no connection: nothing listens there",
        ),
        (httpx.Response(200, text="<html>"), "Another service than Firstlight answers"),
        (httpx.Response(200, json=["UP"]), "Another service than Firstlight answers"),
        (
            httpx.Response(200, json={"model_class": "Other"}),
            "Another service than Firstlight answers",
        ),
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
        finding = checks_installation.web_process(settings, web)
    assert told in finding.what
    assert "python -m backend start" in finding.fix


def test_credentials_that_the_web_process_does_not_take_are_said_without_them(
    settings: Settings, store: Store
) -> None:
    guarded = settings.model_copy(update={"webhook_secret": SecretStr("hunter2")})
    other = settings.model_copy(update={"webhook_secret": SecretStr("hunter3")})
    with served(guarded, store) as web:
        assert checks_installation.web_access(guarded, web).ok
        for wrong in (settings, other):
            finding = checks_installation.web_access(wrong, web)
            assert not finding.ok
            assert "401" in finding.what
            assert "WEBHOOK_SECRET" in finding.fix
            assert "hunter" not in str(finding)
    assert store.projects.all() == [], "the trial changes nothing"


def test_a_worker_is_known_by_its_lock(settings: Settings) -> None:
    assert not checks_installation.worker(settings).ok
    with FileLock(settings.data_dir / "firstlight.sqlite.worker.lock"):
        assert checks_installation.worker(settings).ok
    finding = checks_installation.worker(settings)
    assert not finding.ok
    assert "python -m backend start" in finding.fix


def test_on_a_database_that_many_share_workers_are_known_by_their_beats(
    settings: Settings, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.commands.connection.sqlite_path", lambda _: None)
    monkeypatch.setattr("backend.commands.connection.open_known", lambda _: store)
    assert not checks_installation.worker(settings).ok
    store.workers.join("one", "here", "1")
    store.workers.join("two", "there", "1")
    assert "2 workers run" in checks_installation.worker(settings).what
    clock.advance(LIVELY_SECONDS)
    assert not checks_installation.worker(settings).ok


@pytest.mark.slow
def test_the_encoder_and_its_device_are_named_and_a_substitute_is_said(
    settings: Settings,
    store: Store,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    lite0_folder: Path,
) -> None:
    copytree(lite0_folder, settings.data_dir / "encoders")
    monkeypatch.setattr(weights_hub, "fetch", lambda *given, **named: None)
    assert (
        checks_installation.encoder(
            settings, lambda: checks_installation.load_encoder(settings, None)
        ).what
        == "pixels on cpu."
    )
    assert checks_installation.load_encoder(settings, the(store, number)).name == "pixels"
    chosen = settings.model_copy(update={"encoder": "auto"})
    finding = checks_installation.encoder(
        chosen, lambda: checks_installation.load_encoder(chosen, None)
    )
    assert finding.ok
    assert "efficientnet-lite0+normalised-pixels+statistics on cpu" in finding.what
    assert "RadImageNet" in finding.fix


def test_label_studio_says_its_release_before_any_token_counts(
    settings: Settings, fake: FakeLabelStudio, web: httpx.Client
) -> None:
    wrong = settings.model_copy(update={"label_studio_api_key": SecretStr("nobody's")})
    with fake.client() as client:
        studio = LabelStudio(wrong, client)
        assert "1.23.2 answers" in checks_installation.label_studio(studio, URL, web).what
        with pytest.raises(FirstlightError, match=r"\(401\): Invalid token"):
            checks_installation.token(wrong, studio)


def test_another_release_than_the_tested_one_is_noted(
    studio: LabelStudio, web: httpx.Client
) -> None:
    class Old(LabelStudio):
        def __init__(self) -> None: ...

        def server_version(self) -> str:
            return "1.12.0"

    assert "tested with 1.23" in checks_installation.label_studio(Old(), URL, web).fix
    assert checks_installation.label_studio(studio, URL, web).fix == ""


def test_a_token_is_said_by_its_kind(
    settings: Settings, studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    assert checks_installation.token(settings, studio).what == "The legacy token is accepted."
    fake.fail("GET", "whoami", 401, detail=LEGACY_OFF)
    with pytest.raises(FirstlightError) as caught:
        checks_installation.token(settings, studio)
    assert "Personal Access Token" in caught.value.fix


def test_blocked_addresses_are_found_out_without_storing_anything(
    studio: LabelStudio, fake: FakeLabelStudio, number: int
) -> None:
    before = (dict(fake.entries), dict(fake.webhooks))
    assert checks_installation.backend_address(studio, US).ok
    assert checks_installation.webhook_address(studio, US).ok
    fake.banned = {"ml": PRIVATE, "webhooks": PRIVATE}
    for check in (checks_installation.backend_address, checks_installation.webhook_address):
        with pytest.raises(ConfigError) as caught:
            check(studio, US)
        assert "SSRF_PROTECTION_ENABLED=false" in caught.value.fix
    assert before == (fake.entries, fake.webhooks)


def test_a_host_without_a_dot_is_said_to_take_no_webhook(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    fake.banned = {"webhooks": (400, "Enter a valid URL.")}
    with pytest.raises(ConfigError, match="no dot"):
        checks_installation.webhook_address(studio, "http://firstlight:9090")


def test_a_password_that_the_web_process_does_not_take_is_said(
    settings: Settings, store: Store
) -> None:
    access = {"basic_auth_user": "us", "basic_auth_pass": SecretStr("hunter2")}
    guarded = settings.model_copy(update=access)
    other = guarded.model_copy(update={"basic_auth_pass": SecretStr("hunter3")})
    with served(guarded, store) as web:
        assert checks_installation.web_access(guarded, web).ok
        finding = checks_installation.web_access(other, web)
    assert not finding.ok
    assert "hunter" not in str(finding)


def test_a_network_for_clicks_is_opened_or_its_fault_is_said(tmp_path: Path) -> None:
    two_part_files.write(tmp_path)
    assert checks_installation.click_model(tmp_path).ok
    (tmp_path / "tiny_decoder.onnx").unlink()
    with pytest.raises(ConfigError, match=r"CLICK_MODEL cannot be used: .*decoder"):
        checks_installation.click_model(tmp_path)
