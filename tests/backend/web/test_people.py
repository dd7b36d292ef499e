from __future__ import annotations

import logging
from ipaddress import ip_network
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from backend.settings import Settings
from backend.web.people import LONGEST_NAME, People

PROXIES = tuple(map(ip_network, ("10.0.0.7", "10.1.0.0/16", "fd00::/8")))
KNOWN = Settings(trusted_user_header="X-Forwarded-User", trusted_proxies=PROXIES)


def named(people: People, caller: str | None, **headers: str) -> str:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    base = {"REMOTE_ADDR": caller} if caller is not None else {}
    with Flask(__name__).test_request_context(headers=sent, environ_base=base):
        return people.name()


@pytest.mark.parametrize("proxy", ["10.0.0.7", "10.1.2.3", "fd00::1", "::ffff:10.0.0.7"])
def test_a_listed_proxy_names_the_person(proxy: str) -> None:
    assert named(People(KNOWN), proxy, X_Forwarded_User="ada") == "ada"


@pytest.mark.parametrize(
    "caller", ["10.0.0.8", "127.0.0.1", "::1", "::ffff:10.0.0.8", "192.0.2.1", "", "unix:"]
)
def test_the_header_of_any_other_caller_is_ignored_and_logged_once_without_its_value(
    caller: str, caplog: pytest.LogCaptureFixture
) -> None:
    people = People(KNOWN)
    with caplog.at_level(logging.WARNING):
        assert named(people, caller, X_Forwarded_User="ada") == ""
        assert named(people, caller, X_Forwarded_User="eve") == ""
    [said] = caplog.messages
    assert said == "the header X-Forwarded-User of a caller outside of TRUSTED_PROXIES is ignored"


def test_without_the_setting_no_header_names_anybody(caplog: pytest.LogCaptureFixture) -> None:
    people = People(Settings(trusted_proxies=PROXIES))
    assert named(people, "10.0.0.7", X_Forwarded_User="ada", Remote_User="ada") == ""
    assert caplog.messages == []


def test_a_proxy_that_names_nobody_is_no_reason_for_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert named(People(KNOWN), "10.0.0.8") == named(People(KNOWN), "10.0.0.7") == ""
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("ada@clinic.example", "ada@clinic.example"),
        ("Zo\u00eb".encode().decode("latin-1"), "Zo\u00eb"),
        ("Zo\u00eb", "Zo\u00eb"),
        ("  ada   lovelace ", "ada lovelace"),
    ],
)
def test_a_name_is_read_in_utf_8_or_latin_1(sent: str, name: str) -> None:
    assert named(People(KNOWN), "10.0.0.7", X_Forwarded_User=sent) == name


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=400))
def test_any_name_is_one_short_printable_line(sent: str) -> None:
    name = named(People(KNOWN), "10.0.0.7", X_Forwarded_User=sent)
    assert name.isprintable()
    assert len(name) <= LONGEST_NAME


@pytest.mark.parametrize(
    ("header", "proxies", "message"),
    [
        ("X-User", "", "needs TRUSTED_PROXIES"),
        ("X_User", "10.0.0.7", "expected the name of a header"),
        ("X-User", "proxy.example", "not a valid IPv4 network|IPv4"),
        ("X-User", "10.0.0.7/8", "network"),
    ],
)
def test_settings_that_would_trust_nobody_or_anybody_are_refused(
    header: str, proxies: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUSTED_USER_HEADER", header)
    monkeypatch.setenv("TRUSTED_PROXIES", proxies)
    with pytest.raises(ValueError, match=message):
        Settings()
