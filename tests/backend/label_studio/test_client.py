from __future__ import annotations

import itertools
import json
import time
from typing import Any

import httpx
import jwt
import pytest
from pydantic import SecretStr

from backend.errors import LabelStudioError, NotFound, Unauthorized, Unreachable
from backend.label_studio import client
from backend.label_studio.client import QUEUE, LabelStudio, QueueItem
from backend.settings import Settings
from tests.backend.conftest import Clock, drawn
from tests.backend.fake_label_studio import TOKEN, URL, FakeLabelStudio


def opened(key: str, handler: Any) -> LabelStudio:
    settings = Settings(label_studio_url=URL, label_studio_api_key=SecretStr(key))
    return LabelStudio(settings, httpx.Client(transport=httpx.MockTransport(handler)))


# -- reading --------------------------------------------------------------------------------------


def test_a_project_is_read_in_one_call(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id) for _ in range(3)]
    fake.annotate(tasks[0], ground_truth=True)
    fake.annotate(tasks[1], skip=True)
    info = studio.project(project_id)
    assert (info.title, info.sampling, info.model_version) == ("Lungs", "Sequential sampling", "")
    assert info.counters == {
        "task_number": 3,
        "total_annotations_number": 1,
        "skipped_annotations_number": 1,
        "ground_truth_number": 1,
    }
    assert fake.requests == [("GET", f"/api/projects/{project_id}")]


def test_tasks_come_by_id_page_after_page(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id, patient=str(number)) for number in range(5)]
    fake.page_size_limit = 2
    pages = list(studio.tasks(project_id))
    assert [[task["id"] for task in page] for page in pages] == [tasks[:2], tasks[2:4], tasks[4:]]
    assert pages[0][1]["data"]["patient"] == "1"


def test_a_task_deleted_between_two_pages_hides_no_other(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id) for _ in range(6)]
    fake.page_size_limit = 2
    pages = studio.tasks(project_id)
    seen = [task["id"] for task in next(pages)]
    fake.delete_task(tasks[0])
    assert seen + [task["id"] for page in pages for task in page] == tasks


def test_the_last_page_vanishing_meanwhile_is_the_end(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    tasks = [fake.add_task(project_id) for _ in range(3)]
    fake.page_size_limit = 2
    pages = studio.tasks(project_id)
    assert [task["id"] for task in next(pages)] == tasks[:2]
    fake.delete_task(tasks[2])
    assert list(pages) == []


def test_a_project_without_tasks_has_no_page_and_no_newest_change(
    studio: LabelStudio, project_id: int
) -> None:
    assert list(studio.tasks(project_id)) == []
    assert studio.newest_update(project_id) == ""


def test_only_what_changed_since_shortly_before_then_is_listed(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, clock: Clock
) -> None:
    old, other = fake.add_task(project_id), fake.add_task(project_id)
    clock.advance(client.OVERLAP_SECONDS + 1)
    late = fake.add_task(project_id)
    clock.advance(client.OVERLAP_SECONDS - 1)
    new = fake.add_task(project_id)
    since = studio.newest_update(project_id)
    fake.annotate(other)
    [page] = studio.tasks(project_id, since=since)
    assert [task["id"] for task in page] == [other, late, new]
    assert old not in [task["id"] for task in page]


@pytest.mark.parametrize(
    "moment",
    ["2026-11-23T10:00:05.000000Z", "2026-11-23T12:00:05+02:00", "2026-11-23T10:00:05.000Z"],
)
def test_a_moment_is_asked_for_in_label_studios_own_notation(moment: str) -> None:
    assert client._shortly_before(moment) == "2026-11-23T10:00:00.000000Z"


def test_a_single_task_is_never_asked_for(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    task = fake.add_task(project_id)
    fake.annotate(task, drawn())
    list(studio.tasks(project_id))
    list(studio.annotations(project_id, [task]))
    assert fake.calls("GET", r"/api/tasks/\d") == 0


def test_annotations_of_many_tasks_are_read_in_parts(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TASKS_WITH_MASKS", 2)
    tasks = [fake.add_task(project_id) for _ in range(5)]
    for task in tasks[1:]:
        fake.annotate(task, drawn())
    found = list(studio.annotations(project_id, tasks))
    assert [annotation["task"] for annotation in found] == tasks[1:]
    assert fake.calls("GET", "tasks/whole") == 3


def test_our_entry_is_the_one_that_holds_what_we_answered(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    fake.setup = lambda _: "ours"
    assert studio.entry(project_id, "ours")["url"] == "http://us"
    with pytest.raises(NotFound, match="0 backend entries") as caught:
        studio.entry(project_id, "another")
    assert f"connect {project_id}" in caught.value.mend
    fake.connect(project_id)
    with pytest.raises(NotFound, match="2 backend entries"):
        studio.entry(project_id, "ours")


# -- publishing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 1000, 100_000])
def test_scores_rise_strictly_within_zero_and_one(number: int) -> None:
    scores = [client.score(position, number) for position in range(number)]
    assert all(low < high for low, high in itertools.pairwise(scores))
    assert 0 < scores[0] <= scores[-1] < 1


def test_the_first_scan_of_the_queue_gets_the_lowest_score_and_its_draft(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "IMPORT_CHUNK", 2)
    tasks = [fake.add_task(project_id) for _ in range(5)]
    order = [tasks[number] for number in (3, 0, 4, 1, 2)]
    studio.import_queue(project_id, "v", [QueueItem(task, drawn()) for task in order])
    assert [len(rows) for rows in fake.imports] == [2, 2, 1]
    studio.switch(project_id, "v")
    assert fake.served(project_id) == order
    assert fake.prelabel(project_id, order[0]) == drawn()
    assert fake.projects[project_id].sampling == QUEUE
    assert studio.version_count(project_id, "v") == 5
    assert studio.version_count(project_id, "w") == 0


def test_large_drafts_go_out_in_smaller_parts(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = len(drawn()[0]["value"]["rle"])
    monkeypatch.setattr(client, "IMPORT_NUMBERS", 2 * one)
    tasks = [fake.add_task(project_id) for _ in range(6)]
    results = [drawn(), [], drawn(), drawn(), 3 * drawn(), drawn()]
    queue = [QueueItem(task, result) for task, result in zip(tasks, results, strict=True)]
    studio.import_queue(project_id, "v", queue)
    assert [len(rows) for rows in fake.imports] == [3, 1, 1, 1]
    studio.switch(project_id, "v")
    assert fake.served(project_id) == tasks


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


def test_renaming_the_entry_sends_all_but_its_options(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    [entry] = fake.entries.values()
    entry["extra_params"] = {"alpha": 0.5}
    sent: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return fake(request)

    opened(TOKEN, handler).rename(entry, "v", {"auth_method": "NONE"})
    assert sent == [
        {
            "title": "v",
            "url": "http://us",
            "project": project_id,
            "auth_method": "NONE",
        }
    ]
    assert (entry["title"], entry["extra_params"]) == ("v", {"alpha": 0.5})


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


def test_a_version_is_deleted_and_the_others_stay(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    task = fake.add_task(project_id)
    for version in ("v", "w"):
        studio.import_queue(project_id, version, [QueueItem(task, [])])
    studio.delete_version(project_id, "v")
    assert studio.version_counts(project_id) == {"w": 1}


# -- connecting -----------------------------------------------------------------------------------


def test_an_entry_at_our_address_that_label_studio_cannot_reach_is_not_called_missing(
    studio: LabelStudio, fake: FakeLabelStudio, settings: Settings
) -> None:
    project_id = fake.add_project()
    entry = fake.connect(project_id, url=settings.public_url)
    fake.unreachable.add(settings.public_url)
    entry["state"] = "DI"
    with pytest.raises(Unreachable, match=f"cannot reach this service at {settings.public_url}"):
        studio.entry(project_id, "ours")


def test_an_entry_with_our_address_is_mended_and_keeps_its_title(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    [entry] = fake.entries.values()
    entry["title"] = "attention-unet r0003 9f3c1a"
    studio.connect({"project": project_id, "url": "http://us", "title": "Firstlight"})
    assert [e["title"] for e in fake.entries.values()] == ["attention-unet r0003 9f3c1a"]


def test_a_webhook_is_made_once_and_mended_afterwards(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    studio.ensure_webhook(project_id, "http://us/webhook", {})
    studio.ensure_webhook(project_id, "http://us/webhook", {"Authorization": "Basic eA=="})
    [hook] = fake.webhooks.values()
    assert hook["headers"] == {"Authorization": "Basic eA=="}
    assert hook["send_for_all_actions"]
    assert hook["is_active"]


def test_what_a_locked_database_made_label_studio_do_twice_is_there_once(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    project_id = fake.add_project()
    fake.locked = True
    studio.connect({"project": project_id, "url": "http://us", "title": "Firstlight"})
    fake.locked = True
    studio.ensure_webhook(project_id, "http://us/webhook", {})
    assert (len(fake.entries), len(fake.webhooks)) == (1, 1)


def test_connecting_again_leaves_one_of_several_entries_and_webhooks(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    fake.connect(project_id, url="http://us/")
    fake.connect(project_id, url="http://them")
    for number in (901, 902):
        fake.webhooks[number] = {"id": number, "url": "http://us/webhook", "project": project_id}
    studio.connect({"project": project_id, "url": "http://us", "title": "Firstlight"})
    studio.ensure_webhook(project_id, "http://us/webhook", {})
    assert sorted(entry["url"] for entry in fake.entries.values()) == ["http://them", "http://us"]
    assert len(fake.webhooks) == 1


# -- tokens and errors ----------------------------------------------------------------------------


def test_a_legacy_token_is_sent_as_it_is(studio: LabelStudio) -> None:
    assert studio.authorisation() == {"Authorization": f"Token {TOKEN}"}


# The SDK parses the answer by a method that pydantic calls old.
@pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning")
def test_a_personal_token_is_exchanged_and_never_sent_itself() -> None:
    personal, access = token("refresh", 300), token("access", 300)
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            return httpx.Response(200, json={"access": access})
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=[])

    studio = opened(personal, handler)
    assert studio.authorisation() == {"Authorization": f"Bearer {access}"}
    assert studio.entries(1) == []
    assert seen == [f"Bearer {access}"]


def personal_tokens(handler: Any, *, lifetimes: list[int]) -> tuple[LabelStudio, list[str]]:
    """Return a Label Studio that gives access tokens of these lifetimes, and what it was shown."""
    shown: list[str] = []
    left = iter(lifetimes)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            assert json.loads(request.content) == {"refresh": personal}
            return httpx.Response(200, json={"access": token("access", next(left))})
        shown.append(request.headers["authorization"].removeprefix("Bearer "))
        return httpx.Response(handler(len(shown)), json={"id": 1, "detail": "Token is expired"})

    personal = token("refresh", 3600)
    return opened(personal, answer), shown


def token(kind: str, seconds: int) -> str:
    claims = {"exp": int(time.time()) + seconds, "token_type": kind}
    return jwt.encode(claims, "a key that is long enough for HS256, surely", "HS256")


@pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning")
def test_an_access_token_is_used_while_it_lasts_and_renewed_shortly_before_it_ends() -> None:
    soon = client.RENEW_SECONDS - 5
    studio, shown = personal_tokens(lambda _: 200, lifetimes=[soon, 300])
    for _ in range(3):
        studio.check_token()
    assert shown[0] != shown[1] == shown[2]
    assert studio.authorisation() == {"Authorization": f"Bearer {shown[1]}"}


@pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning")
def test_a_server_that_thinks_an_access_token_has_ended_is_given_another_once() -> None:
    studio, shown = personal_tokens(lambda n: 401 if n == 1 else 200, lifetimes=[300, 301])
    studio.check_token()
    assert len(set(shown)) == 2
    studio, shown = personal_tokens(lambda _: 401, lifetimes=[300, 301])
    with pytest.raises(Unauthorized, match="Token is expired"):
        studio.check_token()
    assert len(shown) == 2


@pytest.mark.filterwarnings("ignore:The `parse_obj` method:DeprecationWarning")
def test_a_personal_token_is_exchanged_below_the_sub_path() -> None:
    called: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        called.append(request.url.path)
        return httpx.Response(200, json={"access": token("access", 300)})

    settings = Settings(
        label_studio_url=f"{URL}/label", label_studio_api_key=SecretStr(token("refresh", 3600))
    )
    client = httpx.Client(transport=httpx.MockTransport(handler))
    LabelStudio(settings, client).check_token()
    assert called == ["/label/api/token/refresh/", "/label/api/current-user/whoami"]


@pytest.mark.parametrize(
    ("detail", "told", "mend"),
    [
        ("Token is blacklisted", "Token is blacklisted", "Check LABEL_STUDIO_API_KEY"),
        ("Token has wrong type", "Token has wrong type", "short-lived access token"),
    ],
)
def test_a_personal_token_that_is_refused_is_said_in_a_sentence(
    detail: str, told: str, mend: str
) -> None:
    key = token("refresh", 3600)
    refused = httpx.Response(401, json={"detail": detail, "code": "token_not_valid"})
    with pytest.raises(Unauthorized) as caught:
        opened(key, lambda request: refused).check_token()
    assert caught.value.what == f"Label Studio refused the request (401): {told}"
    assert mend in caught.value.mend
    assert key not in str(caught.value)


def test_a_legacy_token_where_they_are_off_is_told_the_way_out(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    detail = "legacy token authentication has been disabled for this organization"
    fake.fail("GET", "whoami", 401, detail=detail)
    with pytest.raises(Unauthorized) as caught:
        studio.check_token()
    assert "Personal Access Token" in caught.value.mend
    assert studio.token_kind == "legacy token"


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
        assert "LABEL_STUDIO_URL" in caught.value.mend
    assert all(url.startswith(URL) for url in called)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"detail": "x"}'])
def test_a_server_that_is_no_label_studio_has_no_version(body: str) -> None:
    with pytest.raises(Unreachable, match="not Label Studio's API"):
        opened(TOKEN, lambda request: httpx.Response(200, text=body)).server_version()


def test_an_address_is_tried_without_storing_it(studio: LabelStudio, fake: FakeLabelStudio) -> None:
    studio.check_entry_address("http://us")
    studio.check_webhook_address("http://us/webhook")
    fake.banned = {"ml": (403, "reserved network address"), "webhooks": (400, "Enter a valid URL.")}
    with pytest.raises(Unauthorized, match="reserved"):
        studio.check_entry_address("http://us")
    with pytest.raises(LabelStudioError, match="Enter a valid URL"):
        studio.check_webhook_address("http://us/webhook")
    assert (fake.entries, fake.webhooks) == ({}, {})


def test_what_label_studio_nests_by_field_is_told_in_sentences(
    studio: LabelStudio, fake: FakeLabelStudio
) -> None:
    nested = {"validation_errors": {"url": ["Enter a valid URL."], "more": {"title": ["Empty."]}}}
    with pytest.raises(LabelStudioError, match=r"\(400\): Enter a valid URL.; Empty.$"):
        opened(TOKEN, lambda request: httpx.Response(400, json=nested)).check_token()


def test_an_entry_and_webhooks_are_removed_by_project_and_address(
    studio: LabelStudio, fake: FakeLabelStudio, project_id: int
) -> None:
    [entry] = fake.entries.values()
    for url in ("http://us/webhook", "http://them/webhook"):
        studio.ensure_webhook(project_id, url, {})
    studio.remove_entry(entry["id"])
    assert studio.remove_webhooks(project_id, "http://us/webhook") == 1
    assert studio.remove_webhooks(project_id, "http://us/webhook") == 0
    assert [hook["url"] for hook in fake.webhooks.values()] == ["http://them/webhook"]
    with pytest.raises(NotFound):
        studio.remove_entry(entry["id"])


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
    assert caught.value.mend or expected is LabelStudioError


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


def test_an_expired_personal_token_is_said_and_not_shown() -> None:
    key = jwt.encode({"exp": 1}, "a key that is long enough for HS256, surely", "HS256")
    with pytest.raises(Unauthorized, match="expired") as caught:
        opened(key, lambda request: httpx.Response(200))
    assert key not in str(caught.value)
