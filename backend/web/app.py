"""The HTTP app: routes, access and errors. What is answered stands in backend.web.ml_protocol."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from ipaddress import ip_address
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, Unauthorized
from werkzeug.wrappers import Response as AnyResponse

from backend import logs
from backend.errors import FirstlightError, NotFound, StorageError
from backend.label_studio.credentials import (
    SECRET_HEADER,
    has_basic_auth,
    has_secret,
    webhook_secret,
)
from backend.settings import Settings
from backend.storage.store import Store
from backend.web.ml_protocol import Answers, DraftsOf, OneAtATime
from backend.web.project_page import views
from backend.web.prometheus import Metrics
from backend.web.refresh_requests import Hints

log = logging.getLogger(__name__)

WEBHOOK = "/webhook"
PROBES = frozenset({"/", "/health", "/ready"})  # whether the service lives may be asked by anybody
MOST_BYTES = 50_000_000
LARGE_BYTES = 1_000_000
MOST_PARTS = 1_000_000
# Names that no public server of names knows: the machine's own, and those kept for private use.
PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa")
_LARGE_BODY = threading.Lock()
REFUSED_BYTES = 1_000_000  # of a refused event that are read, to name the project on its page


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


def create_app(settings: Settings, store: Store, drafts: DraftsOf) -> Flask:
    """Return the app.

    Args:
        settings: For access and for the folder of the rounds.
        store: The project's memory.
        drafts: Returns the live model's regions for a project and a stored task; may be slow, may
            raise FirstlightError. Called on one thread only, and only by /predict.
    """
    app = Flask("firstlight", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES + 1
    metrics, hints = Metrics(store), Hints(store)
    app.extensions["hints"] = hints  # whoever ends the process closes it
    answers = Answers(store, hints, OneAtATime(drafts))
    gate = Gate(settings, answers.webhook_secret)
    _add_protocol(app, answers, metrics)
    _add_probes(app, answers, gate, settings)
    app.register_blueprint(views.routes(store, settings))
    app.add_url_rule("/metrics", "metrics", lambda: Response(metrics.text(), mimetype="text/plain"))
    add_errors(app)
    protect(app, gate, lambda: answers)
    return app


def _add_probes(app: Flask, answers: Answers, gate: Gate, settings: Settings) -> None:
    """Liveness and readiness, for whatever watches over this process."""

    @app.get("/")
    @app.get("/health")
    def health() -> Response:
        return health_of(answers, gate)

    @app.get("/ready")
    def ready() -> Response:
        _check_folder(settings)
        return jsonify(answers.ready())


def _check_folder(settings: Settings) -> None:
    """Write a byte into DATA_DIR. The file has no name, so no two probes meet and none is left.

    Raises:
        StorageError: When that cannot be done. It names no path: /ready is open to everybody.
    """
    try:
        with TemporaryFile(dir=settings.data_dir, buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        raise StorageError(
            f"DATA_DIR cannot be written ({error.strerror}).",
            "Check its free space and its rights, and that it is mounted.",
        ) from None


def health_of(answers: Answers, gate: Gate) -> Response:
    """Return that this process is up. Problems are told only to a caller with the password."""
    signed = gate.is_signed(request.headers.get("Authorization", ""))
    return jsonify(answers.health() if signed else answers.alive())


def webhook_of(answers: Answers) -> tuple[Response, int]:
    """Take an event: 201 for one that starts something, 200 for one that changes nothing here.

    These are the codes of the `label-studio-ml` package.
    """
    answer = answers.webhook(json_body())
    return jsonify(answer), 201 if answer["status"] == "ok" else 200


def job_status_of(answers: Answers) -> Response:
    """Return how far a refresh has come; 410 when nobody asked for it."""
    answer = answers.job_status(json_body())
    return jsonify(answer) if answer else abort(410, "No such job was given out here.")


def _add_protocol(app: Flask, answers: Answers, metrics: Metrics) -> None:
    @app.post("/setup")
    def setup() -> Response:
        return jsonify(answers.setup(json_body()))

    @app.post("/predict")
    def predict() -> Response:
        return jsonify(answers.predict(json_body()))

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        metrics.webhooks.inc()
        return webhook_of(answers)

    @app.get("/versions")
    def versions() -> Response:
        return jsonify(answers.versions())

    @app.post("/job_status")
    def job_status() -> Response:
        return job_status_of(answers)


def json_body() -> dict[str, Any]:
    """Return the request's JSON object, whatever content type it came with; else answer 400."""
    # A body without a length is cut at the limit instead of refused; one that says too much was
    # left unread.
    if (request.content_length or 0) > MOST_BYTES or len(request.get_data()) > MOST_BYTES:
        raise RequestEntityTooLarge
    sent = request.get_data()
    # Each becomes an object of its own: 50 MB of `{},` would take gigabytes.
    if sent.count(b"{") + sent.count(b"[") > MOST_PARTS:
        raise RequestEntityTooLarge(
            f"The body has more than {MOST_PARTS} objects and lists. Send less at once."
        )
    try:
        # Of large bodies one is read at a time: they take memory, and all threads wait for them.
        with _LARGE_BODY if len(sent) > LARGE_BYTES else nullcontext():
            body = request.get_json(force=True)
    except RecursionError:
        abort(400, "The body is nested too deeply.")
    if not isinstance(body, dict):
        abort(400, f"The body is a JSON {type(body).__name__}, expected an object.")
    return body


def add_errors(app: Flask) -> None:
    """Answer every error with JSON, and none with a traceback."""

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> AnyResponse:
        response = error.get_response()
        response.set_data(app.json.dumps({"error": error.description or error.name}))
        response.content_type = "application/json"
        return response

    @app.errorhandler(FirstlightError)
    def failed(error: FirstlightError) -> tuple[Response, int]:
        code = 404 if isinstance(error, NotFound) else 503
        if code == 503:
            with logs.context(**logs.ids_of(error)):
                log.error("%s %s: %s", request.method, request.url_rule, error)
        return jsonify({"error": error.what, "mend": error.mend}), code

    @app.errorhandler(Exception)
    def broken(error: Exception) -> tuple[Response, int]:
        number = secrets.token_hex(4)
        with logs.context(request=number):
            log.error("%s %s failed", request.method, request.url_rule, exc_info=error)
        return jsonify({"error": "internal error", "id": number}), 500


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
