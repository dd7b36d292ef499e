"""The HTTP app: routes, access and errors. What is answered stands in backend.answers."""

from __future__ import annotations

import logging
import secrets
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, Unauthorized
from werkzeug.wrappers import Response as AnyResponse

from backend import logs, pages
from backend.access import SECRET_HEADER, has_basic_auth, has_secret
from backend.answers import Answers, DraftsOf, OneAtATime
from backend.errors import FirstlightError, NotFound, StorageError
from backend.hints import Hints
from backend.metrics import Metrics
from backend.settings import Settings
from backend.store import Store

log = logging.getLogger(__name__)

MOST_BYTES = 50_000_000


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
    _add_protocol(app, answers, metrics)
    _add_probes(app, answers, settings)
    app.register_blueprint(pages.routes(store, settings))
    app.add_url_rule("/metrics", "metrics", lambda: Response(metrics.text(), mimetype="text/plain"))
    add_errors(app)
    protect(app, settings)
    return app


def _add_probes(app: Flask, answers: Answers, settings: Settings) -> None:
    """Liveness and readiness, for whatever watches over this process."""

    @app.get("/")
    @app.get("/health")
    def health() -> Response:
        return jsonify(answers.health())

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


def _add_protocol(app: Flask, answers: Answers, metrics: Metrics) -> None:
    @app.post("/setup")
    def setup() -> Response:
        return jsonify(answers.setup(json_body()))

    @app.post("/predict")
    def predict() -> Response:
        return jsonify(answers.predict(json_body()))

    @app.post("/webhook")
    def webhook() -> Response:
        metrics.webhooks.inc()
        return jsonify(answers.webhook(json_body()))

    @app.get("/versions")
    def versions() -> Response:
        return jsonify(answers.versions())

    @app.post("/job_status")
    def job_status() -> Response:
        answer = answers.job_status(json_body())
        return jsonify(answer) if answer else abort(410, "No such job was given out here.")


def json_body() -> dict[str, Any]:
    """Return the request's JSON object, whatever content type it came with; else answer 400."""
    # A body without a length is cut at the limit instead of refused.
    if len(request.get_data()) > MOST_BYTES:
        raise RequestEntityTooLarge
    try:
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

    @app.errorhandler(ParseException)
    def malformed(_: ParseException) -> tuple[Response, int]:
        # Gunicorn reads the chunks of a body as the body is read: in here.
        return jsonify({"error": "The body is not in valid chunks."}), 400

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


def protect(app: Flask, settings: Settings) -> None:
    """Ask for what the settings have: basic auth, and for /webhook the secret.

    Whoever only asks whether the service lives, at /health or /ready, needs no password.

    Whatever they have, no other site's page may change anything.
    """
    app.before_request(refuse_other_sites)

    @app.before_request
    def check() -> None:
        sent = request.headers
        signed = has_basic_auth(sent.get("Authorization", ""), settings)
        if request.endpoint not in {"health", "ready"} and not signed:
            raise Unauthorized("Send the user and password that this backend was started with.")
        if request.endpoint == "webhook" and not has_secret(sent.get(SECRET_HEADER, ""), settings):
            raise Unauthorized(
                f"Send the header {SECRET_HEADER} with this backend's WEBHOOK_SECRET. "
                "`python -m backend doctor PROJECT --fix` writes it into Label Studio's webhook."
            )

    @app.after_request
    def challenge(response: Response) -> Response:
        if response.status_code == 401 and settings.basic_auth_user:
            response.headers["WWW-Authenticate"] = 'Basic realm="Firstlight", charset="UTF-8"'
        return response


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
