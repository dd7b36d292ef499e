from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import httpx
import pytest
from pydantic import SecretStr

from backend.settings import Settings
from backend.storage.store import Store
from backend.storage.tables import Publication
from backend.worker.notices import LASTING, NEWS_SECONDS, PAUSES, TEXTS, Notifier
from tests.backend.conftest import Clock

SECRET = "https://hooks.example/services/T0/very-secret"


class Receiver:
    """Answers webhooks, and keeps them."""

    def __init__(self) -> None:
        self.got: list[dict[str, object]] = []
        self.answer: Callable[[], httpx.Response] = lambda: httpx.Response(200)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == SECRET
        self.got.append(json.loads(request.content))
        return self.answer()

    @property
    def events(self) -> list[object]:
        return [notice["event"] for notice in self.got]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def notifier(settings: Settings, store: Store, receiver: Receiver) -> Iterator[Notifier]:
    known = settings.model_copy(
        update={"notify_url": SecretStr(SECRET), "pages_url": "https://scans.example"}
    )
    store.projects.request_refresh(3)
    store.projects.update(3, title="Jane Doe, born 1950", problem="x of Jane Doe")
    with httpx.Client(transport=httpx.MockTransport(receiver)) as client:
        yield Notifier(known, store, client)


def go_live(store: Store, name: str = "v1") -> None:
    store.publications.save(Publication(project_id=3, name=name, round=1, attempt=1))
    store.publications.go_live(3, name)


def happen(store: Store, clock: Clock) -> None:
    """Let every event happen."""
    go_live(store)
    store.projects.update(
        3, failures=LASTING, problem_at=clock(), vanished_at=clock(), can_stop_since=clock()
    )


def test_a_project_in_which_nothing_happened_is_no_news(
    notifier: Notifier, receiver: Receiver, store: Store
) -> None:
    store.projects.update(3, failures=LASTING - 1)
    notifier.look()
    assert receiver.got == []


def test_every_event_is_told_once_whatever_restarts(
    notifier: Notifier, receiver: Receiver, store: Store, clock: Clock
) -> None:
    happen(store, clock)
    for _ in range(3):
        notifier.look()
        clock.advance(60)
        go_live(store, "v2")
        notifier = Notifier(notifier._settings, store, notifier._client)
    assert sorted(map(str, receiver.events)) == sorted(TEXTS)


def test_a_notice_links_the_page_and_names_the_project_by_its_number_alone(
    notifier: Notifier, receiver: Receiver, store: Store, clock: Clock
) -> None:
    happen(store, clock)
    notifier.look()
    for notice in receiver.got:
        assert (notice["project"], notice["url"]) == (3, "https://scans.example/projects/3")
        assert str(notice["text"]).endswith(" https://scans.example/projects/3")
        assert "Jane" not in json.dumps(notice)
    assert len({notice["id"] for notice in receiver.got}) == len(TEXTS)


def test_an_event_that_ended_and_came_back_is_told_again(
    notifier: Notifier, receiver: Receiver, store: Store, clock: Clock
) -> None:
    for _ in range(2):
        happen(store, clock)
        notifier.look()
        store.projects.update(3, failures=0, vanished_at=0.0, can_stop_since=0.0)
        notifier.look()
        clock.advance(60)
    assert receiver.events.count("queue-ready") == 1
    assert receiver.events.count("round-failed") == receiver.events.count("project-vanished") == 2
    assert receiver.events.count("can-stop") == 2


def test_what_happened_long_before_the_first_start_with_the_setting_is_no_news(
    notifier: Notifier, receiver: Receiver, store: Store, clock: Clock
) -> None:
    happen(store, clock)
    clock.advance(NEWS_SECONDS + 1)
    notifier.look()
    assert receiver.got == []


def refuse() -> httpx.Response:
    return httpx.Response(500, text=SECRET)


def redirect() -> httpx.Response:
    return httpx.Response(302, headers={"Location": "https://elsewhere.example/"})


def hang() -> httpx.Response:
    raise httpx.ReadTimeout(f"no answer of {SECRET}")


@pytest.mark.parametrize("answer", [refuse, redirect, hang])
def test_tries_are_bounded_and_the_address_stays_out_of_the_log(
    notifier: Notifier,
    receiver: Receiver,
    store: Store,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    answer: Callable[[], httpx.Response],
) -> None:
    receiver.answer = answer
    go_live(store)
    with caplog.at_level(logging.WARNING, logger="backend"):
        for pause in (*PAUSES, 3600.0, 3600.0):
            for _ in range(3):
                notifier.look()
            clock.advance(pause)
    assert len(receiver.got) == len(PAUSES) + 1
    assert len({notice["id"] for notice in receiver.got}) == 1
    first, last = caplog.messages
    assert ("tried again" in first, "given up" in last) == (True, True)
    assert "secret" not in caplog.text


def test_a_notice_that_failed_arrives_with_a_later_try(
    notifier: Notifier, receiver: Receiver, store: Store, clock: Clock
) -> None:
    receiver.answer = hang
    go_live(store)
    notifier.look()
    receiver.answer = lambda: httpx.Response(204)
    clock.advance(PAUSES[0])
    notifier.look()
    clock.advance(NEWS_SECONDS)
    notifier.look()
    assert receiver.events == ["queue-ready"] * 2


def test_a_forgotten_project_leaves_no_notice(
    notifier: Notifier, store: Store, clock: Clock
) -> None:
    happen(store, clock)
    notifier.look()
    store.projects.forget(3)
    assert store.notices.all() == {}


def test_the_address_is_a_secret_that_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_URL", SECRET)
    assert "very-secret" not in repr(Settings())
    monkeypatch.setenv("NOTIFY_URL", "slack://very-secret")
    with pytest.raises(ValueError, match="expected an address such as"):
        Settings()
