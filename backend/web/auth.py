"""Who may call: the name, the password, the secret and the site that a request comes with."""

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

from backend import logs
from backend.label_studio.credentials import SECRET_HEADER, webhook_secret
from backend.settings import Settings
from backend.web.ml_protocol import Answers

log = logging.getLogger(__name__)

WEBHOOK = "/webhook"
PROBES = frozenset({"/", "/health", "/ready"})  # whether the service lives may be asked by anybody
REFUSED_BYTES = 1_000_000  # of a refused event that are read, to name the project on its page
# Names that no public server of names knows: the machine's own, and those kept for private use.
PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa")


class Gate:
    """Decides who may call: by the Host, by the password, and for /webhook by its secret."""

    def __init__(self, settings: Settings, stored_secret: Callable[[], str]) -> None:
        self._settings = settings
        self._stored_secret = stored_secret

    @cached_property
    def secret(self) -> str:
        """What webhooks have to bring, "" if nothing. Read once: it never changes."""
        return webhook_secret(self._settings, self._stored_secret)

    @property
    def has_password(self) -> bool:
        """Whether this installation has a password at all."""
        return bool(self._settings.basic_auth_user)

    def goes_by(self, host: str) -> bool:
        """Return whether this Host may name this service.

        A page of another site can have its public name resolve to this machine, and is "our" site
        from then on. An address, a name without a dot and a name that is never public cannot be
        such a name. With a password any name will do: the browser has stored none for that name,
        so the page gets 401.
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
            path: Of the request's address.
            authorization: Its header Authorization, "" for none.
            secret: Its header X-Webhook-Secret, "" for none.
        """
        if path in PROBES:
            return True
        if path != WEBHOOK:
            return self.is_signed(authorization)
        if not self.secret or has_secret(secret, self.secret):
            return True
        # Label Studio's button Start training brings the entry's password, and cannot bring the
        # secret. Whoever sets WEBHOOK_SECRET asks for that alone.
        chosen = bool(self._settings.webhook_secret.get_secret_value())
        return not chosen and self.is_signed(authorization)

    def is_signed(self, authorization: str) -> bool:
        """Return whether a request brings the password, or there is none."""
        return has_basic_auth(authorization, self._settings)


def has_basic_auth(authorization: str, settings: Settings) -> bool:
    """Return whether this header brings the user and password, if the settings have them."""
    if not settings.basic_auth_user:
        return True
    scheme, _, token = authorization.partition(" ")
    return scheme.lower() == "basic" and hmac.compare_digest(_decoded(token), _pair(settings))


def has_secret(given: str, expected: str) -> bool:
    """Return whether this is the secret that is expected."""
    return hmac.compare_digest(given.encode(), expected.encode())


def protect(app: Flask, gate: Gate, answers: Callable[[], Answers]) -> None:
    """Refuse, before any of the body is read, what comes by a wrong name or without the password.

    Args:
        app: Its own checks, if it has any, come after these.
        gate: Decides. Whoever only asks whether the service lives needs no password.
        answers: Returns what a refused event is told to.
    """

    refused_names = logs.Once(log)

    def check_name() -> None:
        if not gate.goes_by(request.host):
            refused_names(f"requests by the name {request.host[:100]!r} are refused (403)")
            abort(
                403,
                f"This service does not go by the name {request.host[:100]!r}. Call it by this "
                "machine's IP address, set BACKEND_URL to an address of that name, or set a "
                "password: BASIC_AUTH_USER and BASIC_AUTH_PASS.",
            )

    def check_signature() -> None:
        # As it was sent: `request.path` makes one slash of several.
        sent, path = request.headers, str(request.environ.get("PATH_INFO", ""))
        if gate.admits(path, sent.get("Authorization", ""), sent.get(SECRET_HEADER, "")):
            return
        if path != WEBHOOK:
            raise Unauthorized("Send the user and password that this backend was started with.")
        answers().webhook_refused(_beginning())
        raise Unauthorized(
            f"Send the header {SECRET_HEADER} with this backend's secret. "
            "`python -m backend doctor PROJECT --fix` writes it into Label Studio's webhook."
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
    """Return the body of a request that is refused, b"" when it is long or does not say."""
    length = request.content_length
    return request.get_data() if length is not None and length <= REFUSED_BYTES else b""


def refuse_other_sites() -> None:
    """Refuse a change that another site's page asks a person's browser for.

    Every browser says where a request comes from, in Sec-Fetch-Site or in Origin, and no page can
    alter that. What says neither is no browser, as Label Studio, and carries no credentials of
    anybody but itself.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    ours = site in {"same-origin", "none"} if site else _is_own(origin)
    if not ours:
        abort(403, "This change was asked for by a page of another site, and is refused.")


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
