"""The same backend under the `label-studio-ml` package: release 1.0.9 and the 2.x contract.

    from backend.adapter import create_app    # for a WSGI server, instead of backend.web

`python -m backend worker` runs beside it, as beside the web process.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from flask import Flask, Response, abort, jsonify
from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase

from backend import bucket, logs
from backend.answers import Answers, OneAtATime, live_drafts
from backend.app import add_errors, json_body, protect
from backend.hints import Hints
from backend.settings import load_settings, prepare_data_dir
from backend.store import open_store


class Firstlight(LabelStudioMLBase):  # type: ignore[misc]
    """Holds nothing itself: the package makes and drops objects of it as it likes."""

    @classmethod
    @cache
    def answers(cls) -> Answers:
        """Return what this process answers with, from the environment's settings."""
        settings = load_settings()
        prepare_data_dir(settings)
        bucket.prepare(settings.artifacts_url)
        store = open_store(settings.database)
        store.create()
        hints = Hints(store)
        atexit.register(hints.close)  # one that waits for the database is known here alone
        drafts = live_drafts(settings, store)
        drafts.keep_warm()
        return Answers(store, hints, OneAtATime(drafts))

    def setup(self) -> None:
        """Tell the 2.x base class which version is live; it is made anew for each request."""
        project = getattr(self, "project_id", None)
        self.set("model_version", self.answers().version(project))

    def predict(self, tasks: Sequence[Any], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Return one result a task. 1.0.9 does not say whose tasks they are; they do."""
        named = (task.get("project") for task in tasks if isinstance(task, dict))
        project = getattr(self, "project_id", None) or next(filter(None, named), None)
        answer = self.answers().predict({"project": project, "tasks": tasks})
        return list(answer["results"])

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Leave a hint for the worker. 2.x passes (event, data), 1.0.9 passes them by name."""
        named = (kwargs.get("event"), kwargs.get("data"))
        event, data = named if named[0] else (*args, None, None)[:2]
        if isinstance(data, Mapping):  # 1.0.9's own /train hands over a folder instead
            self.answers().webhook({**data, "action": event})


def create_app() -> Flask:
    """Return the package's server, with the answers that it cannot give itself.

    1.0.9 answers /setup with its own job numbers, /predict with tracebacks, and starts a process
    for each event; both contracts drop ANNOTATIONS_DELETED, and know no GET /versions.
    """
    settings = load_settings()
    # A host that has set up its logging (a generated _wsgi.py, an application around this one)
    # keeps it: to set up anew would close its handlers. Under a bare WSGI server nobody has, and
    # what is logged would lose its level, time and project.
    if not logging.getLogger().handlers:
        logs.configure(settings.log_level)
    # At DEBUG the package writes whole requests, access tokens included.
    logging.getLogger("label_studio_ml").setLevel(logging.INFO)
    server: Flask = init_app(Firstlight)
    answers = Firstlight.answers
    server.view_functions |= {
        "_setup": lambda: jsonify(answers().setup(json_body())),
        "_predict": lambda: jsonify(answers().predict(json_body())),
        "webhook": lambda: jsonify(answers().webhook(json_body())),
    }
    server.add_url_rule("/versions", "versions", lambda: jsonify(answers().versions()))
    server.add_url_rule("/job_status", "job_status", _job_status, methods=["POST"])
    add_errors(server)
    protect(server, settings)
    return server


def _job_status() -> Response:
    answer = Firstlight.answers().job_status(json_body())
    return jsonify(answer) if answer else abort(410, "No such job was given out here.")
