from __future__ import annotations

import json
import time
from typing import Any

import httpx
import jwt
import pytest
from pydantic import SecretStr

from backend.errors import Unauthorized
from backend.label_studio import personal_tokens
from backend.label_studio.client import LabelStudio
from backend.settings import Settings
from tests.backend.fake_label_studio import TOKEN, URL, FakeLabelStudio
from tests.backend.label_studio.conftest import opened


def token(kind: str, seconds: int) -> str:
    claims = {"exp": int(time.time()) + seconds, "token_type": kind}
    return jwt.encode(claims, "a key that is long enough for HS256, surely", "HS256")


def exchanging(handler: Any, *, lifetimes: list[int]) -> tuple[LabelStudio, list[str]]:
    """Return a Label Studio that gives access tokens of these lifetimes, and what it was shown."""
    shown: list[str] = []
    left = iter(lifetimes)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            assert json.loads(request.content) == {"refresh": personal}
            return httpx.Response(200, json={"access": token("access", next(left))})
        shown.append(request.headers["authorization"].removeprefix("Bearer "))
        return httpx.Response(handler(len(shown)), json={"id": 1, "detail": "Token is expired"})

    personal = token("refresh", 3600)
    return opened(personal, answer), shown


def test_a_legacy_token_is_sent_as_it_is(studio: LabelStudio) -> None:
    assert studio.authorisation() == {"Authorization": f"Token {TOKEN}"}


def test_a_personal_token_is_exchanged_and_never_sent_itself() -> None:
    personal, access = token("refresh", 300), token("access", 300)
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            return httpx.Response(200, json={"access": access})
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=[])

    studio = opened(personal, handler)
    assert studio.authorisation() == {"Authorization": f"Bearer {access}"}
    assert studio.entries(1) == []
    assert seen == [f"Bearer {access}"]


def test_an_access_token_is_used_while_it_lasts_and_renewed_shortly_before_it_ends() -> None:
    soon = personal_tokens.RENEW_SECONDS - 5
    studio, shown = exchanging(lambda _: 200, lifetimes=[soon, 300])
    for _ in range(3):
        studio.check_token()
    assert shown[0] != shown[1] == shown[2]
    assert studio.authorisation() == {"Authorization": f"Bearer {shown[1]}"}


def test_a_server_that_thinks_an_access_token_has_ended_is_given_another_once() -> None:
    studio, shown = exchanging(lambda n: 401 if n == 1 else 200, lifetimes=[300, 301])
    studio.check_token()
    assert len(set(shown)) == 2
    studio, shown = exchanging(lambda _: 401, lifetimes=[300, 301])
    with pytest.raises(Unauthorized, match="Token is expired"):
        studio.check_token()
    assert len(shown) == 2


def test_a_personal_token_is_exchanged_below_the_sub_path() -> None:
    called: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        called.append(request.url.path)
        return httpx.Response(200, json={"access": token("access", 300)})

    settings = Settings(
        label_studio_url=f"{URL}/label", label_studio_api_key=SecretStr(token("refresh", 3600))
    )
    client = httpx.Client(transport=httpx.MockTransport(handler))
    LabelStudio(settings, client).check_token()
    assert called == ["/label/api/token/refresh/", "/label/api/current-user/whoami"]


@pytest.mark.parametrize(
    ("detail", "told", "fix"),
    [
        ("Token is blacklisted", "Token is blacklisted", "Check LABEL_STUDIO_API_KEY"),
        ("Token has wrong type", "Token has wrong type", "short-lived access token"),
    ],
)
def test_a_personal_token_that_is_refused_is_said_in_a_sentence(
    detail: str, told: str, fix: str
) -> None:
    key = token("refresh", 3600)
    refused = httpx.Response(401, json={"detail": detail, "code": "token_not_valid"})
    with pytest.raises(Unauthorized) as caught:
        opened(key, lambda request: refused).check_token()
    assert caught.value.what == f"Label Studio refused the request (401): {told}"
    assert fix in caught.value.fix
    assert key not in str(caught.value)


def test_a_legacy_token_where_they_are_off_is_told_the_way_out(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    detail = "legacy token authentication has been disabled for this organization"
    fake.fail("GET", "whoami", 401, detail=detail)
    with pytest.raises(Unauthorized) as caught:
        studio.check_token()
    assert "Personal Access Token" in caught.value.fix
    assert studio.token_kind == "legacy token"


def test_an_expired_personal_token_is_said_and_not_shown() -> None:
    key = jwt.encode({"exp": 1}, "a key that is long enough for HS256, surely", "HS256")
    with pytest.raises(Unauthorized, match="expired") as caught:
        opened(key, lambda request: httpx.Response(200))
    assert key not in str(caught.value)
