"""The same backend under the `label-studio-ml` package: release 1.0.9 and the 2.x contract.

    from backend.adapter import create_app    # for a WSGI server, instead of backend.web.server

`python -m backend worker` runs beside it, as beside the web process.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from flask import Flask, Response, jsonify, request
from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase

from backend import logs
from backend.settings import keep_private, load_settings, prepare_data_dir, require_click_model
from backend.storage import bucket
from backend.storage.store import open_store
from backend.web.app import MOST_BYTES, add_errors, health_of, job_status_of, json_body, webhook_of
from backend.web.auth import Gate, protect
from backend.web.clicks import Clicks
from backend.web.ml_protocol import Answers, OneAtATime, live_drafts
from backend.web.refresh_requests import RefreshRequests


class Firstlight(LabelStudioMLBase):  # type: ignore[misc]
    """Has no state of its own: the package makes and drops instances at any time."""

    @classmethod
    @cache
    def answers(cls) -> Answers:
        """Return the answers of this process, made once from the environment's settings."""
        keep_private()
        settings = load_settings()
        prepare_data_dir(settings)
        bucket.prepare(settings.artifacts_url)
        store = open_store(settings.database)
        store.create()
        requests = RefreshRequests(store)
        atexit.register(requests.close)  # stores requests that wait in memory
        drafts = live_drafts(settings, store)
        drafts.keep_warm()
        return Answers(store, requests, OneAtATime(drafts), Clicks(drafts.clicked))

    def setup(self) -> None:
        """Tell the 2.x base class which version is live; every request makes a new instance."""
        project = getattr(self, "project_id", None)
        self.set("model_version", self.answers().version(project))

    def predict(self, tasks: Sequence[Any], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Return one result a task. 1.0.9 does not name the project, but the tasks do."""
        named = (task.get("project") for task in tasks if isinstance(task, dict))
        project = getattr(self, "project_id", None) or next(filter(None, named), None)
        params = {"context": kwargs.get("context")}
        answer = self.answers().predict({"project": project, "tasks": tasks, "params": params})
        return list(answer["results"])

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Take an event. 2.x passes (event, data) by position, 1.0.9 passes them by name."""
        named = (kwargs.get("event"), kwargs.get("data"))
        event, data = named if named[0] else (*args, None, None)[:2]
        if isinstance(data, Mapping):  # 1.0.9's own /train passes a folder instead
            self.answers().webhook({**data, "action": event})


def create_app() -> Flask:
    """Return the package's server, with our answers in the place of its own.

    1.0.9 answers /setup with its own job numbers, /predict with tracebacks, and starts a process
    for each event; both contracts drop ANNOTATIONS_DELETED, and know no GET /versions.

    Bodies over 50 MB get 413, and the password is checked before a body is read. A WSGI server that
    reads whole requests before it hands them over must limit their size itself.

    Raises:
        ConfigError: If a setting is wrong, or CLICK_MODEL is no folder.
    """
    settings = load_settings()
    require_click_model(settings)
    # If the host has set up logging (a generated _wsgi.py, an application around this one), leave
    # it alone: a new setup would close its handlers. A bare WSGI server sets up none, and log
    # lines would lose their level, time and project.
    if not logging.getLogger().handlers:
        logs.configure(settings.log_level)
    # At DEBUG the package logs whole requests, with their access tokens.
    logging.getLogger("label_studio_ml").setLevel(logging.INFO)
    server: Flask = init_app(Firstlight)
    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES + 1
    # The package's own error handlers would answer some errors with their text, and log it.
    server.error_handler_spec.clear()
    gate = Gate(settings, lambda: Firstlight.answers().webhook_secret())
    _add_answers(server, gate)
    add_errors(server)
    protect(server, gate, Firstlight.answers)
    return server


def _add_answers(server: Flask, gate: Gate) -> None:
    """Put our answers in the place of the package's, and add the routes that it lacks."""
    answers = Firstlight.answers
    server.view_functions |= {
        "_setup": lambda: jsonify(answers().setup(json_body())),
        "_predict": lambda: jsonify(answers().predict(json_body())),
        "webhook": lambda: webhook_of(answers()),
        "health": lambda: health_of(answers(), gate),
        "get_version": _versions,  # POST, in 1.0.9
        "_train": _train,
        "_is_training": lambda: jsonify(answers().is_training(request.args.get("project"))),
    }
    server.add_url_rule("/versions", "versions", _versions)
    server.add_url_rule(
        "/job_status", "job_status", lambda: job_status_of(answers()), methods=["POST"]
    )


def _versions() -> Response:
    return jsonify(Firstlight.answers().versions())


def _train() -> Response:
    """Take what Label Studio before 1.4.1 sent for the button that now is START_TRAINING."""
    return jsonify(Firstlight.answers().webhook({**json_body(), "action": "START_TRAINING"}))
