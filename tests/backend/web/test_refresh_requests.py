from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.storage.store import Store, open_store
from backend.web.refresh_requests import REFUSALS_SECONDS, RefreshRequests, Refusals
from tests.backend.conftest import Clock, the


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}", busy_ms=10)
    store.create()
    yield store
    store.close()


@pytest.fixture
def writer(tmp_path: Path, store: Store) -> Iterator[sqlite3.Connection]:
    """Another process that holds the database's only write lock until it rolls back."""
    connection = sqlite3.connect(tmp_path / "memory.sqlite")
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def wanted(store: Store, project_id: int) -> int:
    project = store.projects.get(project_id)
    return project.requested if project else 0


def retrying() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "refresh requests"]


def test_a_hint_is_written_at_once_and_starts_no_thread(store: Store) -> None:
    requests = RefreshRequests(store)
    assert requests.request(3)
    assert requests.request(3)
    assert wanted(store, 3) == 2
    assert not retrying()


def test_a_hint_for_a_locked_database_is_remembered_and_written_when_closed(
    store: Store, writer: sqlite3.Connection
) -> None:
    requests = RefreshRequests(store, retry_seconds=3600)
    assert not requests.request(3)
    assert wanted(store, 3) == 0
    writer.rollback()
    requests.close()
    assert wanted(store, 3) == 1
    assert not retrying()


def test_the_thread_tries_until_the_database_takes_the_hint_and_then_ends(
    store: Store, writer: sqlite3.Connection
) -> None:
    requests = RefreshRequests(store, retry_seconds=0.01)
    requests.request(3)
    [thread] = retrying()
    writer.rollback()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert wanted(store, 3) == 1
    assert requests.request(3)


def test_a_database_that_stays_locked_is_told_of_once(
    store: Store,
    writer: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries, real = threading.Semaphore(0), store.projects.request_refresh

    def counted(project_id: int, **request: bool) -> None:
        tries.release()
        real(project_id, **request)

    monkeypatch.setattr(store.projects, "request_refresh", counted)
    requests = RefreshRequests(store, retry_seconds=0.01)
    requests.request(3)
    assert all(tries.acquire(timeout=30) for _ in range(5))
    writer.rollback()
    requests.close()
    assert len(caplog.messages) == 1


def test_requests_that_come_during_a_write_are_stored_with_the_next_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, remembered, go_on = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    write, remember = store.projects.request_refresh, RefreshRequests._remember

    def slow(project_id: int, **request: bool) -> None:
        begun.release()
        assert go_on.wait(30)
        write(project_id, **request)

    def counted(self: RefreshRequests, *given: Any) -> None:
        remember(self, *given)
        remembered.release()

    monkeypatch.setattr(store.projects, "request_refresh", slow)
    monkeypatch.setattr(RefreshRequests, "_remember", counted)
    requests = RefreshRequests(store)
    with ThreadPoolExecutor(9) as people:
        answers = [people.submit(requests.request, 3)]
        assert begun.acquire(timeout=30)
        answers += [people.submit(requests.request, 3, full=number == 5) for number in range(8)]
        assert all(remembered.acquire(timeout=30) for _ in answers)
        go_on.set()
        assert all(answer.result(30) for answer in answers)
    assert wanted(store, 3) == 2, "one write for the first, one for all others"
    assert the(store, 3).full_sync
    assert not retrying()


def test_a_press_of_start_training_outlives_a_locked_database(
    store: Store, writer: sqlite3.Connection
) -> None:
    requests = RefreshRequests(store, retry_seconds=3600)
    for train in (True, False):
        assert not requests.request(3, train=train)
    writer.rollback()
    store.projects.request_refresh(3)
    requests.close()
    project = store.projects.get(3)
    assert project is not None
    assert project.train_requested == project.requested == 2


def test_hints_that_wait_are_one_for_each_project_and_keep_the_wish_for_a_full_sync(
    store: Store, writer: sqlite3.Connection
) -> None:
    writer.rollback()
    store.projects.request_refresh(3)
    store.projects.update(3, full_sync=False)
    writer.execute("BEGIN IMMEDIATE")
    requests = RefreshRequests(store, retry_seconds=3600)
    for full in (False, True, False):
        assert not requests.request(3, full=full)
    requests.request(4)
    writer.rollback()
    requests.close()
    project = store.projects.get(3)
    assert project is not None
    assert (project.requested, project.full_sync) == (2, True)
    assert wanted(store, 4) == 1


def test_a_hint_that_waits_makes_the_next_one_answer_without_asking_the_database(
    store: Store, writer: sqlite3.Connection
) -> None:
    requests = RefreshRequests(store, retry_seconds=3600)
    requests.request(3)
    store.close()
    before = store.engine.pool.status()
    assert not requests.request(3)
    assert store.engine.pool.status() == before
    writer.rollback()
    requests.close()


def test_closing_twice_or_with_a_database_that_stays_locked_ends_all_the_same(
    store: Store, writer: sqlite3.Connection
) -> None:
    requests = RefreshRequests(store, retry_seconds=3600)
    requests.request(3)
    requests.close()
    requests.close()
    assert not retrying()
    writer.rollback()
    assert wanted(store, 3) == 0


EVENT = b'{"action": "ANNOTATION_CREATED", "project": {"id": 1}}'


def test_refused_events_are_logged_and_written_once_a_minute(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.projects.request_refresh(1)
    store.clock = clock
    passed = Clock(0.0)
    refusals = Refusals(store, passed)

    def refused_at() -> float:
        return the(store, 1).webhook_refused_at

    refusals.note(EVENT)
    first = refused_at()
    assert first == clock()
    refusals.over(the(store, 1))
    refusals.note(EVENT)
    assert (refused_at(), len(caplog.records)) == (0.0, 1)
    passed.advance(REFUSALS_SECONDS)
    clock.advance(REFUSALS_SECONDS)
    refusals.note(EVENT)
    assert (refused_at(), len(caplog.records)) == (clock(), 2)
    passed.advance(REFUSALS_SECONDS)
    refusals.note(EVENT)
    assert refused_at() == clock(), "the first of them is what is told"


def test_a_refused_event_is_no_failure_while_the_database_is_locked(
    store: Store, tmp_path: Path
) -> None:
    store.projects.request_refresh(1)
    with closing(sqlite3.connect(tmp_path / "memory.sqlite")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        Refusals(store).note(EVENT)
    assert not the(store, 1).webhook_refused_at
