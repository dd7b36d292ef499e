from __future__ import annotations

import base64
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from backend.errors import ConfigError
from backend.label_studio.credentials import SECRET_HEADER, webhook_headers
from backend.settings import Settings, load_settings
from backend.storage.store import Store, open_store
from backend.web.app import create_app
from backend.web.auth import Gate, has_basic_auth
from backend.web.ml_protocol import live_drafts

OPEN = Settings()
GUARDED = Settings(basic_auth_user="us", basic_auth_pass=SecretStr("hunter2"))
SECRET = Settings(webhook_secret=SecretStr("s3cret"))


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def gate(settings: Settings, stored: str = "st0red") -> Gate:
    return Gate(settings, lambda: stored)


def test_a_webhook_brings_the_secret_and_never_the_password() -> None:
    both = GUARDED.model_copy(update={"webhook_secret": SecretStr("s3cret")})
    assert [gate(one).secret for one in (OPEN, SECRET, GUARDED, both)] == [
        "",
        "s3cret",
        "st0red",
        "s3cret",
    ]
    assert webhook_headers("") == {}
    assert webhook_headers("s3cret") == {SECRET_HEADER: "s3cret"}


@pytest.mark.parametrize("sent", ["", "Basic", "Basic !", "Bearer x", basic("us:other"), "s3cret"])
def test_only_the_right_credentials_are_let_in(sent: str) -> None:
    assert not has_basic_auth(sent, GUARDED)
    assert has_basic_auth(sent, OPEN)
    assert not gate(GUARDED).admits("/setup", sent, "st0red")
    assert gate(SECRET).admits("/webhook", "", sent) is (sent == "s3cret")
    assert gate(OPEN).admits("/webhook", "", sent)


@pytest.mark.parametrize("settings", [GUARDED, SECRET])
def test_a_webhook_without_credentials_stays_outside(settings: Settings) -> None:
    guarded = gate(settings)
    assert not guarded.admits("/webhook", "", "")
    assert guarded.admits("/webhook", "", guarded.secret)
    assert guarded.admits("/health", "", "")


def test_start_training_may_bring_the_password_of_its_entry_instead() -> None:
    assert gate(GUARDED).admits("/webhook", basic("us:hunter2"), "")
    assert not gate(SECRET).admits("/webhook", basic("us:hunter2"), "")


def test_the_secret_of_an_installation_is_made_once(settings: Settings, store: Store) -> None:
    made = store.installation.webhook_secret
    assert len(made) > 40
    again = open_store(settings.database)
    assert again.installation.webhook_secret == made
    again.close()


def web(settings: Settings, store: Store, **access: Any) -> FlaskClient:
    guarded = settings.model_copy(update=access)
    return create_app(guarded, store, live_drafts(guarded, store)).test_client()


def test_with_a_secret_no_webhook_comes_in_without_it(settings: Settings, store: Store) -> None:
    client = web(settings, store, webhook_secret=SecretStr("s3cret"))
    event = {"action": "TASKS_CREATED", "project": {"id": 1}}
    for headers in ({}, {SECRET_HEADER: ""}, {SECRET_HEADER: "s3cre"}, {SECRET_HEADER: "ü"}):
        refused = client.post("/webhook", json=event, headers=headers)
        assert refused.status_code == 401
        assert SECRET_HEADER in refused.text
        assert "s3cret" not in refused.text
        assert "WWW-Authenticate" not in refused.headers, "a browser has nothing to ask"
    assert client.post("/webhook", json=event, headers={SECRET_HEADER: "s3cret"}).status_code == 200
    assert client.get("/health").status_code == 200
    assert client.post("/setup", json={}).status_code == 200


def test_with_a_password_the_webhook_has_a_secret_of_its_own(
    settings: Settings, store: Store
) -> None:
    client = web(settings, store, basic_auth_user="us", basic_auth_pass=SecretStr("hunter2"))
    headers = webhook_headers(store.installation.webhook_secret)
    assert client.post("/webhook", json={}, headers=headers).status_code == 200
    assert client.get("/versions", headers=headers).status_code == 401
    for wrong in ({}, {SECRET_HEADER: "hunter2"}):
        assert client.post("/webhook", json={}, headers=wrong).status_code == 401


@pytest.mark.parametrize("value", [" s3cret", "s3\ncret", "gehäim"])
def test_a_secret_that_no_header_can_carry_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", value)
    with pytest.raises(ConfigError, match=r"WEBHOOK_SECRET: .*printable ASCII") as caught:
        load_settings()
    assert value not in str(caught.value)
