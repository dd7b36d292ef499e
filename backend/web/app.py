"""The HTTP app: routes and errors. backend.web.ml_protocol makes the answers."""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import nullcontext
from tempfile import TemporaryFile
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from backend import logs
from backend.errors import FirstlightError, NotFound, StorageError
from backend.settings import Settings
from backend.storage.store import Store
from backend.web import openapi
from backend.web.auth import Gate, protect
from backend.web.clicks import Clicks, ClicksOf
from backend.web.ml_protocol import Answers, DraftsOf, OneAtATime
from backend.web.project_page import views
from backend.web.prometheus import Metrics
from backend.web.refresh_requests import RefreshRequests
from backend.web.responses import Failure, answered, written

log = logging.getLogger(__name__)

MOST_BYTES = 50_000_000
LARGE_BYTES = 1_000_000
MOST_PARTS = 1_000_000
_LARGE_BODY = threading.Lock()
UNKNOWN_JOB = "This service gave out no such job. Send the `job` of its answer to START_TRAINING."


def create_app(
    settings: Settings, store: Store, drafts: DraftsOf, clicks: ClicksOf | None = None
) -> Flask:
    """Return the app.

    Args:
        settings: The settings of this installation.
        store: The database.
        drafts: Returns the live model's regions for a project and a stored task; may be slow, may
            raise FirstlightError. Called on one thread only, and only by /predict.
        clicks: Returns the regions for a project, a stored task and the prompts on it, called in
            the same way; None answers no clicks.
    """
    app = Flask("firstlight", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES + 1
    metrics, requests = Metrics(store), RefreshRequests(store)
    app.extensions["requests"] = requests  # `serve` closes it when the process ends
    answers = Answers(store, requests, OneAtATime(drafts), Clicks(clicks) if clicks else None)
    gate = Gate(settings, answers.webhook_secret)
    _add_protocol(app, answers, metrics)
    _add_probes(app, answers, gate, settings)
    app.register_blueprint(views.routes(store, settings))
    app.add_url_rule("/metrics", "metrics", lambda: Response(metrics.text(), mimetype="text/plain"))
    app.add_url_rule("/openapi.json", "openapi", lambda: openapi.answer(app, gate.has_password))
    add_errors(app)
    protect(app, gate, lambda: answers)
    return app


def _add_probes(app: Flask, answers: Answers, gate: Gate, settings: Settings) -> None:
    """Add the routes that tell a supervisor whether this process is alive and ready."""

    @app.get("/", endpoint="root")
    @app.get("/health")
    def health() -> Response:
        return health_of(answers, gate)

    @app.get("/ready")
    def ready() -> Response:
        _check_folder(settings)
        return answered(answers.ready())


def _check_folder(settings: Settings) -> None:
    """Write a byte into DATA_DIR, in a file without a name: probes never collide or leave files.

    Raises:
        StorageError: When DATA_DIR cannot be written. The error names no path, because anybody may
            call /ready.
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
    """Answer that this process is up; list problems only for a caller with the password."""
    signed = gate.is_signed(request.headers.get("Authorization", ""))
    return answered(answers.health() if signed else answers.alive())


def webhook_of(answers: Answers) -> tuple[Response, int]:
    """Take an event; answer 201 if it starts a refresh, 200 if it is ignored.

    The `label-studio-ml` package answers with the same codes.
    """
    answer = answers.webhook(json_body())
    return jsonify(answer), 201 if answer["status"] == "ok" else 200


def job_status_of(answers: Answers) -> Response:
    """Return how far a refresh has come; 410 for a job that this service never gave out."""
    answer = answers.job_status(json_body())
    return jsonify(answer) if answer else abort(410, UNKNOWN_JOB)


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
    """Return the request's JSON object, whatever its content type; answer 400 for other bodies."""
    # Flask cuts a body without a Content-Length at the limit instead of refusing it. The server
    # leaves a body with too large a Content-Length unread.
    if (request.content_length or 0) > MOST_BYTES or len(request.get_data()) > MOST_BYTES:
        raise RequestEntityTooLarge
    sent = request.get_data()
    # Each of them becomes a Python object: 50 MB of `{},` would take gigabytes of memory.
    if sent.count(b"{") + sent.count(b"[") > MOST_PARTS:
        raise RequestEntityTooLarge(
            f"The body has more than {MOST_PARTS} objects and lists. Send less at once."
        )
    try:
        # Parse large bodies one at a time: each takes much memory and holds up all threads.
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
        response.set_data(written(Failure(error=error.description or error.name)))
        response.content_type = "application/json"
        return response

    @app.errorhandler(FirstlightError)
    def failed(error: FirstlightError) -> Response:
        code = 404 if isinstance(error, NotFound) else 503
        if code == 503:
            with logs.context(**logs.ids_of(error)):
                log.error("%s %s: %s", request.method, request.url_rule, error)
        return answered(Failure.of(error), code)

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        number = secrets.token_hex(4)
        with logs.context(request=number):
            log.error("%s %s failed", request.method, request.url_rule, exc_info=error)
        return answered(Failure(error="internal error", id=number), 500)
