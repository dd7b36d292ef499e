"""How a request to Label Studio is signed: with a legacy token, or with an exchanged personal one.

The SDK can do this too, but it has no public way to renew an access token shortly before it ends,
or after Label Studio refused it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any

import httpx
import jwt

from backend.label_studio.answers import refusal, sentence

# An access token lives for five minutes; it is renewed when less than this is left.
RENEW_SECONDS = 30


class LegacyToken(httpx.Auth):
    """Signs with a legacy token, which goes out as it is."""

    kind = "legacy token"

    def __init__(self, key: str) -> None:
        self._key = key

    def header(self) -> str:
        """Return the value of the header Authorization."""
        return f"Token {self._key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request."""
        request.headers["Authorization"] = self.header()
        yield request


class PersonalToken(httpx.Auth):
    """Signs with the access token that a personal access token is exchanged for."""

    kind = "personal access token"

    def __init__(self, key: str, address: str, http: httpx.Client) -> None:
        """Keep the arguments of `signing`."""
        self._key, self._address, self._http = key, address, http
        self._lock = threading.Lock()
        self.access = ""
        self._ends = 0.0

    def header(self, *, refused: str = "") -> str:
        """Return the value of the header Authorization.

        Args:
            refused: An access token that Label Studio refused, and that is to be replaced.

        Raises:
            LabelStudioError: If Label Studio refuses the exchange.
            ValueError: If the answer holds no access token.
        """
        with self._lock:
            if self.access == refused or self._ends < time.time() + RENEW_SECONDS:
                self._exchange()
            return f"Bearer {self.access}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request, and repeat it with another access token if this one is refused.

        Label Studio may refuse a token before its end: clocks differ, and a server may forget.
        """
        request.headers["Authorization"] = header = self.header()
        response = yield request
        if response.status_code == 401:
            refused = header.removeprefix("Bearer ")
            request.headers["Authorization"] = self.header(refused=refused)
            yield request

    def _exchange(self) -> None:
        unsigned = httpx.Auth()
        response = self._http.post(self._address, json={"refresh": self._key}, auth=unsigned)
        answer = response.json()
        if response.status_code != 200:
            raise refusal(response.status_code, sentence(answer))
        access = answer.get("access") if isinstance(answer, dict) else None
        if not isinstance(access, str):
            raise ValueError("the exchange of a personal access token brought no access token")
        self._ends = float((_claims(access) or {}).get("exp") or 0)
        self.access = access


def signing(key: str, address: str, http: httpx.Client) -> LegacyToken | PersonalToken:
    """Return the signer for LABEL_STUDIO_API_KEY, by the kind of token that it is.

    Args:
        key: The token.
        address: Where Label Studio exchanges a personal access token.
        http: Makes the exchange.

    Raises:
        Unauthorized: If it is a personal access token that has expired.
    """
    claims = _claims(key)
    if claims is None:
        return LegacyToken(key)
    if claims.get("exp") is None:
        raise refusal(401, "The personal access token has no time of expiry.")
    if claims["exp"] < time.time():
        raise refusal(401, "The personal access token has expired.")
    return PersonalToken(key, address, http)


def _claims(token: str) -> dict[str, Any] | None:
    """Return the claims in a JSON Web Token, None for any other token."""
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
