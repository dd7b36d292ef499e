from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from backend.errors import LabelStudioError
from backend.label_studio import labels
from backend.label_studio.client import LabelStudio
from backend.label_studio.new_projects import NewProjects, brush_config
from backend.settings import Settings


def projects(settings: Settings, answer: Callable[[httpx.Request], httpx.Response]) -> NewProjects:
    http = httpx.Client(transport=httpx.MockTransport(answer))
    return NewProjects(LabelStudio(settings, http))


def test_its_label_config_can_be_served() -> None:
    config = labels.parse(brush_config(["Left lung", 'a "b" & <c>']))
    assert list(config.labels) == ["Left lung", 'a "b" & <c>']


def test_a_project_is_made_with_its_config(settings: Settings) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(201, json={"id": 7})

    assert projects(settings, answer).create("Lungs", "<View/>") == 7
    body = {"title": "Lungs", "label_config": "<View/>"}
    assert asked == [("POST", "/api/projects/", body)]


def test_every_file_of_an_upload_has_a_field_of_its_own(settings: Settings) -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        assert request.url.path == "/api/projects/7/import"
        assert request.headers["authorization"].startswith("Token ")
        return httpx.Response(201, json={"task_count": 2})

    assert projects(settings, answer).upload(7, {"a.png": b"AA", "b.png": b"BB"}) == 2
    assert bodies[0].count(b'name="a.png"; filename="a.png"') == 1
    assert bodies[0].count(b'name="b.png"; filename="b.png"') == 1


def test_an_upload_is_never_repeated(settings: Settings) -> None:
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(503)

    with pytest.raises(LabelStudioError):
        projects(settings, answer).upload(7, {"a.png": b"AA"})
    assert len(calls) == 1
