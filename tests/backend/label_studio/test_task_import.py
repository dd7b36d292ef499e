from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_import import TaskImport
from backend.settings import Settings
from tests.backend.exchange.filling import FillableLabelStudio
from tests.backend.fake_label_studio import TOKEN, URL


@pytest.fixture
def studio() -> FillableLabelStudio:
    made = FillableLabelStudio()
    made.add_project()
    return made


@pytest.fixture
def tasks(studio: FillableLabelStudio) -> TaskImport:
    settings = Settings(label_studio_url=URL, label_studio_api_key=SecretStr(TOKEN))
    return TaskImport(LabelStudio(settings, studio.client()))


def files(folder: Path, number: int) -> list[Path]:
    paths = [folder / f"{index:03}.png" for index in range(number)]
    for path in paths:
        path.write_bytes(b"picture")
    return paths


def test_files_are_uploaded_in_calls_that_label_studio_takes(
    studio: FillableLabelStudio, tasks: TaskImport, tmp_path: Path
) -> None:
    addresses = tasks.upload(1, files(tmp_path, 120))
    assert len(addresses) == 120
    assert addresses["007.png"].startswith("/data/upload/1/")
    assert addresses["007.png"].endswith("-007.png")
    assert studio.calls("POST", "/import$") == 3
    assert tasks.uploads(1) == addresses


def test_files_are_parted_by_their_size_too(
    studio: FillableLabelStudio,
    tasks: TaskImport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backend.label_studio.task_import._BYTES_A_CALL", 20)
    tasks.upload(1, files(tmp_path, 5))  # of 7 bytes each
    assert studio.calls("POST", "/import$") == 3


def test_nothing_is_sent_where_nothing_is_to_be_sent(
    studio: FillableLabelStudio, tasks: TaskImport
) -> None:
    assert tasks.upload(1, []) == {}
    tasks.add_tasks(1, [])
    assert studio.requests == []


def test_tasks_are_made_in_bounded_requests(studio: FillableLabelStudio, tasks: TaskImport) -> None:
    tasks.add_tasks(1, [{"slice": number} for number in range(600)])
    assert studio.calls("POST", "/import$") == 3
    data = [task["data"] for task in studio.projects[1].tasks.values()]
    assert data == [{"slice": number} for number in range(600)]


@pytest.mark.parametrize("answer", [502, httpx.ReadTimeout])
def test_what_would_double_tasks_or_projects_is_not_repeated(
    studio: FillableLabelStudio,
    tasks: TaskImport,
    tmp_path: Path,
    answer: int | type[httpx.TransportError],
) -> None:
    studio.fail("POST", "", answer, times=9)
    for call in (
        lambda: tasks.add_tasks(1, [{}]),
        lambda: tasks.create_project("Lungs", "<View/>"),
        lambda: tasks.upload(1, files(tmp_path, 1)),
        lambda: tasks.upload_tasks(1, {"a.png": b"AA"}),
    ):
        studio.requests.clear()
        with pytest.raises(LabelStudioError):
            call()
        assert len(studio.requests) == 1


def test_a_project_is_found_by_its_whole_title(
    studio: FillableLabelStudio, tasks: TaskImport
) -> None:
    number = tasks.create_project("Hearts", "<View/>")
    tasks.create_project("Hearts of 2026", "<View/>")
    assert tasks.projects_titled("Hearts") == [number]
    assert tasks.projects_titled("hearts") == []


def test_a_folder_is_registered_once_and_a_sync_finds_no_file_in_it(
    studio: FillableLabelStudio, tasks: TaskImport
) -> None:
    tasks.ensure_storage(1, "/files/firstlight/1")
    tasks.ensure_storage(1, "/files/firstlight/1")
    [storage] = studio.storages[1]
    assert storage["regex_filter"] == r"^\b$"


def test_a_folder_that_label_studio_may_not_serve_is_named_with_the_settings(
    studio: FillableLabelStudio, tasks: TaskImport
) -> None:
    studio.fail("POST", "/localfiles", 400, detail="Serving local files can be a security risk")
    with pytest.raises(LabelStudioError, match=r"security risk.*LOCAL_FILES_SERVING_ENABLED=true"):
        tasks.ensure_storage(1, "/files/firstlight/1")


def test_every_file_of_an_upload_has_a_field_of_its_own_and_becomes_a_task(
    settings: Settings,
) -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        assert request.url.path == "/api/projects/7/import"
        assert request.headers["authorization"].startswith("Token ")
        return httpx.Response(201, json={"task_count": 2})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    tasks = TaskImport(LabelStudio(settings, http))
    assert tasks.upload_tasks(7, {"a.png": b"AA", "b.png": b"BB"}) == 2
    assert bodies[0].count(b'name="a.png"; filename="a.png"') == 1
    assert bodies[0].count(b'name="b.png"; filename="b.png"') == 1
