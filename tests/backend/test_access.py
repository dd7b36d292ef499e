from __future__ import annotations

import base64
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from backend.access import (
    SECRET_HEADER,
    entry_credentials,
    has_basic_auth,
    has_secret,
    webhook_headers,
)
from backend.answers import live_drafts
from backend.app import create_app
from backend.errors import ConfigError
from backend.settings import Settings, load_settings
from backend.store import Store

OPEN = Settings()
GUARDED = Settings(basic_auth_user="us", basic_auth_pass=SecretStr("hunter2"))
SECRET = Settings(webhook_secret=SecretStr("s3cret"))


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def test_an_entry_gets_the_credentials_that_label_studio_signs_with() -> None:
    assert entry_credentials(OPEN) == {"auth_method": "NONE"}
    assert entry_credentials(GUARDED) == {
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "us",
        "basic_auth_pass": "hunter2",
    }


def test_a_webhook_gets_what_its_receiver_asks_for() -> None:
    both = GUARDED.model_copy(update={"webhook_secret": SecretStr("s3cret")})
    assert webhook_headers(OPEN) == {}
    assert webhook_headers(SECRET) == {SECRET_HEADER: "s3cret"}
    assert webhook_headers(both) == {
        "Authorization": basic("us:hunter2"),
        SECRET_HEADER: "s3cret",
    }
    assert has_basic_auth(webhook_headers(both)["Authorization"], both)
    assert has_secret(webhook_headers(both)[SECRET_HEADER], both)


@pytest.mark.parametrize("sent", ["", "Basic", "Basic !", "Bearer x", basic("us:other"), "s3cret"])
def test_only_the_right_credentials_are_let_in(sent: str) -> None:
    assert not has_basic_auth(sent, GUARDED)
    assert has_basic_auth(sent, OPEN)
    assert has_secret(sent, SECRET) is (sent == "s3cret")
    assert has_secret(sent, OPEN)


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


def test_with_both_a_webhook_has_to_bring_both(settings: Settings, store: Store) -> None:
    access = {
        "basic_auth_user": "us",
        "basic_auth_pass": SecretStr("hunter2"),
        "webhook_secret": SecretStr("s3cret"),
    }
    client = web(settings, store, **access)
    headers = webhook_headers(settings.model_copy(update=access))
    assert client.post("/webhook", json={}, headers=headers).status_code == 200
    for name in headers:
        assert client.post("/webhook", json={}, headers={name: headers[name]}).status_code == 401


@pytest.mark.parametrize("value", [" s3cret", "s3\ncret", "gehäim"])
def test_a_secret_that_no_header_can_carry_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", value)
    with pytest.raises(ConfigError, match=r"WEBHOOK_SECRET: .*printable ASCII") as caught:
        load_settings()
    assert value not in str(caught.value)
