from __future__ import annotations

import httpx
import pytest

from backend.commands import neighbours


def found(url: str, answers: dict[str, httpx.Response]) -> list[str]:
    def answer(request: httpx.Request) -> httpx.Response:
        address = f"{request.url.host}:{request.url.port or 80}"
        if address not in answers:
            raise httpx.ConnectError("refused")
        return answers[address]

    with httpx.Client(transport=httpx.MockTransport(answer)) as web:
        return [neighbour.url for neighbour in neighbours.search(web, url)]


def release() -> httpx.Response:
    return httpx.Response(200, json={"release": "1.23.2"})


def test_the_usual_ports_are_tried_on_the_host_and_on_this_machine() -> None:
    answers = {"127.0.0.1:8085": release(), "10.0.0.5:8081": release(), "10.0.0.5:80": release()}
    assert found("https://10.0.0.5:9999/label", answers) == [
        "http://10.0.0.5:8081",
        "http://10.0.0.5:80",
        "http://127.0.0.1:8085",
    ]
    assert found("http://localhost:8080", answers) == ["http://127.0.0.1:8085"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=["1.23.2"]),
        httpx.Response(404, json={"error": "unknown"}),
    ],
)
def test_another_service_is_not_taken_for_label_studio(answer: httpx.Response) -> None:
    assert found("http://127.0.0.1:1", {"127.0.0.1:8080": answer}) == []
