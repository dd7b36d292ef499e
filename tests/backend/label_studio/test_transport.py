from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from backend.errors import LabelStudioError, NotFound, Unauthorized, Unreachable
from backend.label_studio.client import LabelStudio
from backend.label_studio.queue_import import QueueItem
from backend.settings import Settings
from tests.backend.fake_label_studio import TOKEN, URL, FakeLabelStudio
from tests.backend.label_studio.conftest import opened


@pytest.mark.parametrize("answer", [500, 503, 429, httpx.ConnectError, httpx.RemoteProtocolError])
def test_an_import_is_never_repeated_by_itself(
    studio: LabelStudio,
    fake: FakeLabelStudio,
    project_id: int,
    answer: int | type[httpx.TransportError],
) -> None:
    task = fake.add_task(project_id)
    fake.fail("POST", "import/predictions", answer)
    with pytest.raises(Unreachable):
        studio.import_queue(project_id, "v", [QueueItem(task, [])])
    assert fake.calls("POST", "import/predictions") == 1
    assert fake.versions(project_id)["v"] == 0


def test_what_is_sent_calls_itself_json_and_keeps_every_letter(
    fake: FakeLabelStudio, project_id: int
) -> None:
    task = fake.add_task(project_id)
    region = {"value": {"rle": [0, 255], "brushlabels": ["Lungenflügel, 肺"]}}
    kinds: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        kinds.append(request.headers.get("content-type", ""))
        return fake(request)

    studio = opened(TOKEN, handler)
    studio.import_queue(project_id, "v", [QueueItem(task, [region])])
    assert fake.imports[0][0]["result"] == [region]
    studio.check_token()
    assert kinds == ["application/json", ""], "a body has a kind, and no body has none"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_is_said_and_never_followed(method: str) -> None:
    called: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        called.append(str(request.url))
        return httpx.Response(301, headers={"Location": "https://studio.example/x?patient=7"})

    studio = opened(TOKEN, handler)
    asked = {
        "GET": studio.check_token,
        "POST": lambda: studio.import_queue(1, "v", [QueueItem(1, [])]),
    }
    for call in (asked[method], studio.server_version):
        with pytest.raises(Unreachable, match=r"redirects, to https://studio\.example\.") as caught:
            call()
        assert "LABEL_STUDIO_URL" in caught.value.fix
    assert all(url.startswith(URL) for url in called)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"detail": "x"}'])
def test_a_server_that_is_no_label_studio_has_no_version(body: str) -> None:
    with pytest.raises(Unreachable, match="not Label Studio's API"):
        opened(TOKEN, lambda request: httpx.Response(200, text=body)).server_version()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (400, LabelStudioError),
        (500, Unreachable),
        (429, Unreachable),
        (httpx.ConnectError, Unreachable),
        (httpx.ReadTimeout, Unreachable),
        (httpx.RemoteProtocolError, Unreachable),
    ],
)
def test_every_failure_comes_out_as_one_of_ours_with_a_mend(
    studio: LabelStudio,
    fake: FakeLabelStudio,
    project_id: int,
    answer: int | type[httpx.TransportError],
    expected: type[LabelStudioError],
) -> None:
    fake.fail("GET", "/api/projects", answer, times=9, detail="Sentence of Label Studio's.")
    with pytest.raises(LabelStudioError) as caught:
        studio.project(project_id)
    assert type(caught.value) is expected
    assert TOKEN not in str(caught.value)
    assert caught.value.fix or expected is LabelStudioError


def test_a_project_that_is_not_there_is_said_with_where_its_number_stands(
    studio: LabelStudio,
) -> None:
    with pytest.raises(NotFound, match="Check the number of the project: it stands in the"):
        studio.project(4711)


def test_a_short_trouble_is_asked_through_when_asking_twice_does_no_harm(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    fake.fail("GET", "/api/projects", 503)
    fake.fail("GET", "/api/projects", httpx.ConnectError)
    assert studio.project(project_id).title == "Lungs"


@pytest.mark.parametrize(
    "response",
    [httpx.Response(200, text="<html>Welcome</html>"), httpx.Response(404, text="<html>?</html>")],
)
def test_an_address_that_is_not_label_studio_is_said(response: httpx.Response) -> None:
    with pytest.raises(LabelStudioError) as caught:
        opened(TOKEN, lambda request: response).project(1)
    assert "html" not in str(caught.value)


def test_a_label_studio_behind_a_sub_path_is_called_there() -> None:
    called: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        called.append(str(request.url))
        return httpx.Response(200, json=[])

    settings = Settings(label_studio_url=f"{URL}/label/", label_studio_api_key=SecretStr(TOKEN))
    client = httpx.Client(transport=httpx.MockTransport(handler))
    LabelStudio(settings, client).entries(1)
    assert called == [f"{URL}/label/api/ml?project=1"]
