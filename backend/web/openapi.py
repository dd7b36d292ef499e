"""/openapi.json: the pages and probes as an OpenAPI 3.1 document.

The paths come from the app's routes, the schemas from the models that read requests and write
answers (backend.web.responses). Only the sentences about each operation stand here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from backend import __version__
from backend.web import queries, responses
from backend.web.responses import Failure

Json = dict[str, Any]

JSON, TEXT, HTML, FORM = (
    "application/json",
    "text/plain",
    "text/html",
    "application/x-www-form-urlencoded",
)
_REF = "#/components/schemas/{model}"
# <int(max=2147483647):project_id>: the converter, the most, the name.
_ARGUMENT = re.compile(r"<(?:(\w+)(?:\(max=(\d+)\))?:)?(\w+)>")

FAILURES = {
    400: "The request is wrong; `error` says where.",
    401: "The password is missing or wrong.",
    403: "The request names a host that this service does not answer to, or another site sent it.",
    404: "There is no such project, scan or round.",
    409: "Something stands in the way of the change; `fix` says how to go on.",
    503: "The database or DATA_DIR does not answer, or too much is asked at once.",
}


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        summary: One sentence.
        content: What answers with 200 hold, by media type: a model, or a JSON schema.
        query: The model of the query.
        form: The model of the body.
        failures: The codes of its other answers, beside 401 and 403.
        redirects: Whether a browser is led back to the page after the change.
        protected: Whether it needs the password, if the service has one.
    """

    summary: str
    content: Mapping[str, type[BaseModel] | Json] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    failures: tuple[int, ...] = (404, 503)
    redirects: bool = False
    protected: bool = True

    @property
    def models(self) -> Iterator[tuple[type[BaseModel], Any]]:
        """The models of its answers and of its body, each with the direction that it goes."""
        for content in self.content.values():
            if isinstance(content, type):
                yield content, "serialization"
        if self.form:
            yield self.form, "validation"


_STRING: Json = {"type": "string"}
_KINDS: Mapping[str, Json] = {TEXT: _STRING, HTML: _STRING}

# By the endpoint of the route.
OPERATIONS: Mapping[str, Operation] = {
    "health": Operation(
        "Tell whether this process lives, and with the password the problems of all projects.",
        {JSON: responses.Health},
        failures=(),
        protected=False,
    ),
    "ready": Operation(
        "Tell whether this process can answer requests.",
        {JSON: responses.Ready},
        failures=(503,),
        protected=False,
    ),
    "metrics": Operation(
        "Return the metrics in Prometheus' text format.", {TEXT: _STRING}, failures=(503,)
    ),
    "openapi": Operation("Return this document.", {JSON: {"type": "object"}}, failures=()),
    "pages.overview": Operation(
        "List the projects.",
        {JSON: responses.Overview, **_KINDS},
        query=queries.KindQuery,
        failures=(400, 503),
    ),
    "pages.project": Operation(
        "Tell what a project is doing, what it used and what it asks next.",
        {JSON: responses.ProjectStatus, **_KINDS},
        query=queries.PageQuery,
        failures=(400, 404, 503),
    ),
    "pages.map": Operation(
        "Return the points of the map, and the learning curve.", {JSON: responses.ProjectMap}
    ),
    "pages.rounds": Operation(
        "Return the audit record.",
        {JSON: responses.AuditRecord},
        query=queries.RoundsQuery,
        failures=(400, 404, 503),
    ),
    "pages.scan": Operation(
        "Return a scan as a small picture.", {"image/png": {"contentMediaType": "image/png"}}
    ),
    "pages.rollback": Operation(
        "Go back to a version: the next rounds publish its model's queue, and train nothing.",
        {JSON: responses.Done},
        query=queries.KindQuery,
        form=queries.RollbackForm,
        failures=(400, 404, 409, 503),
        redirects=True,
    ),
    "pages.confirm": Operation(
        "Take a label off the list of suspicious labels, because a person found it right.",
        {JSON: responses.Done},
        query=queries.KindQuery,
        form=queries.ConfirmForm,
        failures=(400, 404, 409, 503),
        redirects=True,
    ),
    "pages.review": Operation(
        "Return a reviewed scan twice: with its label, and with the mask that networks expect.",
        {"image/png": {"contentMediaType": "image/png"}},
    ),
    "pages.export": Operation(
        "Return the submitted masks as a ZIP file.",
        {"application/zip": {"contentMediaType": "application/zip"}},
        form=queries.ExportForm,
        failures=(400, 404, 409, 503),
    ),
    "pages.resume": Operation(
        "Let rounds train again after a rollback.",
        {JSON: responses.Done},
        query=queries.KindQuery,
        failures=(400, 404, 409, 503),
        redirects=True,
    ),
}


def answer(app: Flask, has_password: bool) -> Response:
    """Return the document of an app.

    Args:
        app: The app; its routes are described.
        has_password: Whether this installation has a password.
    """
    return Response(json.dumps(document(app, has_password)), mimetype=JSON)


def document(app: Flask, has_password: bool) -> Json:
    """Return the document of an app; see `answer`."""
    models = {model: None for one in OPERATIONS.values() for model in one.models}
    _, schemas = models_json_schema(
        [(Failure, "serialization"), *models], by_alias=True, ref_template=_REF
    )
    paths: Json = {}
    for rule in app.url_map.iter_rules():
        operation = OPERATIONS.get(rule.endpoint)
        if operation:
            path = _ARGUMENT.sub(r"{\3}", rule.rule)
            method = "post" if "POST" in (rule.methods or ()) else "get"
            paths[path] = {method: _operation(rule, operation, has_password)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Firstlight",
            "version": __version__,
            "summary": "Which scan to label next: the pages of the projects, and the probes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"password": {"type": "http", "scheme": "basic"}},
        },
    }


def _operation(rule: Rule, operation: Operation, has_password: bool) -> Json:
    protected = operation.protected and has_password
    parameters = [*_path_parameters(rule), *_query_parameters(operation.query)]
    return {
        "operationId": rule.endpoint.removeprefix("pages."),
        "summary": operation.summary,
        "security": [{"password": []}] if protected else [],
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _body(operation.form)} if operation.form else {}),
        "responses": _answers(operation, protected),
    }


def _answers(operation: Operation, protected: bool) -> Json:
    found: Json = {
        "200": {"description": operation.summary, "content": _content(operation.content)}
    }
    if operation.redirects:
        found["303"] = {
            "description": "Done; for a browser, which asks for HTML.",
            "headers": {"Location": {"schema": _STRING}},
            "content": {HTML: {"schema": _STRING}},
        }
    codes = {403, *operation.failures, *([401] if protected else [])}
    for code in sorted(codes):
        content: dict[str, type[BaseModel] | Json] = {JSON: Failure}
        if code == 409:
            content[HTML] = _STRING  # the page, with the reason
        found[str(code)] = {"description": FAILURES[code], "content": _content(content)}
    return found


def _content(content: Mapping[str, type[BaseModel] | Json]) -> Json:
    return {media: {"schema": _schema(held)} for media, held in content.items()}


def _schema(held: type[BaseModel] | Json) -> Json:
    return {"$ref": _REF.format(model=held.__name__)} if isinstance(held, type) else held


def _body(form: type[BaseModel]) -> Json:
    return {"required": True, "content": _content({FORM: form})}


def _path_parameters(rule: Rule) -> Iterator[Json]:
    for _, most, name in _ARGUMENT.findall(rule.rule):
        schema: Json = {"type": "integer", "minimum": 0, **({"maximum": int(most)} if most else {})}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(query: type[BaseModel] | None) -> Iterator[Json]:
    properties: Json = query.model_json_schema()["properties"] if query else {}
    for name, whole in properties.items():
        schema = {key: value for key, value in whole.items() if key not in _APART}
        # A name without a value is absent from a query: null cannot be sent.
        choices = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
        schema |= choices[0] if choices else {}
        described = {"description": whole["description"]}
        yield {"name": name, "in": "query", "required": False, **described, "schema": schema}


_APART = {"description", "title", "default"}
