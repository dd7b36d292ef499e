"""Access: check a request's host name, originating site, password and webhook secret."""

from __future__ import annotations

import base64
import hmac
import logging
from collections.abc import Callable
from functools import cached_property
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, Response, abort, request
from werkzeug.exceptions import Unauthorized

from backend import PROGRAM, logs
from backend.label_studio.credentials import SECRET_HEADER, webhook_secret
from backend.settings import Settings
from backend.web.ml_protocol import Answers

log = logging.getLogger(__name__)

WEBHOOK = "/webhook"
PROBES = frozenset({"/", "/health", "/ready"})  # open to everybody, without the password
REFUSED_BYTES = 1_000_000  # read of a refused event, to show the refusal on its project's page
# Endings of names that public DNS never resolves: loopback and private use.
PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa")


class Gate:
    """Decides who may call: by the Host, by the password, and for /webhook by its secret."""

    def __init__(self, settings: Settings, stored_secret: Callable[[], str]) -> None:
        self._settings = settings
        self._stored_secret = stored_secret

    @cached_property
    def secret(self) -> str:
        """The secret that webhooks must send, "" if none. Read once, because it never changes."""
        return webhook_secret(self._settings, self._stored_secret)

    @property
    def has_password(self) -> bool:
        """Whether this installation has a password at all."""
        return bool(self._settings.basic_auth_user)

    def goes_by(self, host: str) -> bool:
        """Return whether a request may call this service by this Host.

        This stops DNS rebinding: another site lets its public name resolve to this machine, so
        that the browser takes its pages for ours. IP addresses, names without a dot and private
        names are safe, because public DNS does not resolve them. With a password every name is
        safe: the browser stores no password for the other site's name, so its pages get 401.
        """
        name = _host_of(f"//{host}").rstrip(".")
        return (
            self.has_password
            or name in {_host_of(self._settings.public_url), self._settings.host.lower()}
            or bool(name and "." not in name)
            or name.endswith(PRIVATE_NAMES)
            or _is_address(name)
        )

    def admits(self, path: str, authorization: str, secret: str) -> bool:
        """Return whether a request may be answered.

        Args:
            path: The path of the request.
            authorization: Its header Authorization, "" if absent.
            secret: Its header X-Webhook-Secret, "" if absent.
        """
        if path in PROBES:
            return True
        if path != WEBHOOK:
            return self.is_signed(authorization)
        if not self.secret or has_secret(secret, self.secret):
            return True
        # Label Studio's button Start Training sends the entry's password, and cannot send the
        # secret. With WEBHOOK_SECRET set, /webhook accepts that secret alone.
        chosen = bool(self._settings.webhook_secret.get_secret_value())
        return not chosen and self.is_signed(authorization)

    def is_signed(self, authorization: str) -> bool:
        """Return whether a request has the password, or this installation has none."""
        return has_basic_auth(authorization, self._settings)


def has_basic_auth(authorization: str, settings: Settings) -> bool:
    """Return whether the header has the settings' user and password; True if they have none."""
    if not settings.basic_auth_user:
        return True
    scheme, _, token = authorization.partition(" ")
    return scheme.lower() == "basic" and hmac.compare_digest(_decoded(token), _pair(settings))


def has_secret(given: str, expected: str) -> bool:
    """Return whether two secrets are equal, in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def protect(app: Flask, gate: Gate, answers: Callable[[], Answers]) -> None:
    """Refuse requests with a wrong host name, site or password before their bodies are read.

    Args:
        app: The app; its own checks run after these.
        gate: Decides who may call.
        answers: Returns the object that reports refused events.
    """

    refused_names = logs.Once(log)

    def check_name() -> None:
        if not gate.goes_by(request.host):
            refused_names(f"requests to the host name {request.host[:100]!r} are refused (403)")
            abort(
                403,
                f"This service does not answer to the host name {request.host[:100]!r}. Use this "
                "machine's IP address, set BACKEND_URL to an address with that name, or set a "
                "password: BASIC_AUTH_USER and BASIC_AUTH_PASS.",
            )

    def check_signature() -> None:
        # The raw path: `request.path` merges repeated slashes.
        sent, path = request.headers, str(request.environ.get("PATH_INFO", ""))
        if gate.admits(path, sent.get("Authorization", ""), sent.get(SECRET_HEADER, "")):
            return
        if path != WEBHOOK:
            raise Unauthorized("Send the user and password that this backend was started with.")
        answers().webhook_refused(_beginning())
        raise Unauthorized(
            f"Send the header {SECRET_HEADER} with this backend's secret. "
            f"`{PROGRAM} doctor PROJECT --fix` writes it into Label Studio's webhook."
        )

    app.extensions["gate"] = gate
    ours = [check_name, refuse_other_sites, check_signature]
    app.before_request_funcs[None] = [*ours, *app.before_request_funcs[None]]

    @app.after_request
    def challenge(response: Response) -> Response:
        if response.status_code == 401 and gate.has_password:
            response.headers["WWW-Authenticate"] = 'Basic realm="Firstlight", charset="UTF-8"'
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _beginning() -> bytes:
    """Return the body of a refused request, b"" if it is too long or its length is unknown."""
    length = request.content_length
    return request.get_data() if length is not None and length <= REFUSED_BYTES else b""


def refuse_other_sites() -> None:
    """Refuse a change that a page of another site requests through a person's browser (CSRF).

    Browsers name the page's site in Sec-Fetch-Site or in Origin, and pages cannot alter these
    headers. A request with neither header comes from a program such as Label Studio, which sends
    only its own credentials.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    ours = site in {"same-origin", "none"} if site else _is_own(origin)
    if not ours:
        abort(403, "A page of another site requested this change. Use this service's own page.")


def _is_own(origin: str | None) -> bool:
    try:
        return origin is None or urlsplit(origin).netloc == request.host
    except ValueError:  # such as http://[
        return False


def _host_of(address: str) -> str:
    """Return the host of an address, "" if it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def _pair(settings: Settings) -> bytes:
    return f"{settings.basic_auth_user}:{settings.basic_auth_pass.get_secret_value()}".encode()


def _decoded(token: str) -> bytes:
    try:
        return base64.b64decode(token.strip())
    except ValueError:
        return b""
