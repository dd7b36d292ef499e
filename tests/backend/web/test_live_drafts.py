from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from backend.errors import DraftError, ImageError
from backend.settings import Settings
from backend.storage.store import Store
from backend.web import live_drafts
from backend.web.live_drafts import DraftProcess
from tests.backend.drawing_process import DIES, FAILS, HANGS, serve
from tests.backend.web.test_app import drawing, live

if TYPE_CHECKING:
    from backend.rounds.drafts.drafting import LiveDrafts


@pytest.fixture
def drafts(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DraftProcess]:
    monkeypatch.setattr(live_drafts, "_serve", serve)
    found = DraftProcess(settings, store)
    yield found
    found.close()
    if found._child is not None:
        found._child.process.join()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for a condition; the test's own timeout ends a wait in vain."""
    while not condition():
        time.sleep(0.01)


def asked(settings: Settings) -> list[dict[str, int]]:
    path = settings.data_dir / "asked"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def process_of(regions: list[dict[str, Any]]) -> int:
    return int(regions[0]["id"])


def test_nothing_is_started_before_the_first_draft_and_one_child_draws_them_all(
    drafts: DraftProcess, settings: Settings
) -> None:
    assert drafts._child is None
    child = process_of(drafts(3, 1))
    assert child != os.getpid()
    assert process_of(drafts(4, 2)) == child
    questions = [{"project": 3, "task": 1}, {"project": 4, "task": 2}]
    assert asked(settings) == [{**question, "process": child} for question in questions]


def test_the_settings_reach_the_child_with_their_secrets(
    drafts: DraftProcess, settings: Settings
) -> None:
    [region] = drafts(3, 1)
    assert region["key"] == settings.api_key != ""


def test_why_there_is_no_draft_comes_back_as_an_error_and_the_child_goes_on(
    drafts: DraftProcess,
) -> None:
    child = process_of(drafts(3, 1))
    with pytest.raises(DraftError, match=r"The scan is no picture\. Send another\."):
        drafts(3, FAILS)
    assert process_of(drafts(3, 1)) == child


@pytest.mark.seconds
def test_a_child_that_dies_in_a_draft_fails_that_draft_and_the_next_is_drawn(
    drafts: DraftProcess,
) -> None:
    child = process_of(drafts(3, 1))
    with pytest.raises(DraftError, match=r"ended \(exit code -9\)"):
        drafts(3, DIES)
    assert process_of(drafts(3, 1)) != child


def test_a_child_that_died_between_two_drafts_fails_none(drafts: DraftProcess) -> None:
    child = process_of(drafts(3, 1))
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert process_of(drafts(3, 1)) != child


@pytest.mark.seconds
def test_a_child_that_hangs_is_ended(drafts: DraftProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    child = process_of(drafts(3, 1))
    monkeypatch.setattr(live_drafts, "ANSWER_SECONDS", 0.1)
    with pytest.raises(DraftError, match=r"ended \(exit code -9\)"):
        drafts(3, HANGS)
    monkeypatch.undo()
    monkeypatch.setattr(live_drafts, "_serve", serve)
    assert process_of(drafts(3, 1)) != child


def test_a_child_that_cannot_be_started_is_said(
    drafts: DraftProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refused)
    with pytest.raises(DraftError, match=r"cannot start \(Resource temporarily unavailable\)"):
        drafts(3, 1)


def test_no_child_starts_while_no_project_shows_drafts(
    drafts: DraftProcess, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = DraftProcess._load_newest, []

    def counted(self: DraftProcess) -> None:
        look(self)
        looks.append(self)

    monkeypatch.setattr(live_drafts, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(DraftProcess, "_load_newest", counted)
    store.projects.request_refresh(1)
    live(store, name="medoids r0001")
    drafts.keep_warm()
    wait_for(lambda: len(looks) > 2)
    assert drafts._child is None


def test_networks_are_loaded_once_before_a_draft_is_asked_for_the_newest_two(
    drafts: DraftProcess, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_drafts, "LOOK_SECONDS", 0.01)
    for project in (1, 2, 3):
        store.clock = lambda at=float(project): at  # type: ignore[misc]
        drawing(store, {1: "a.png"}, project_id=project)
    drafts.keep_warm()
    wait_for(lambda: len(asked(settings)) >= 2)
    child = process_of(drafts(1, 5))
    assert [(one["project"], one.get("task")) for one in asked(settings)] == [
        (3, None),
        (2, None),
        (1, 5),
    ]
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: len(asked(settings)) >= 5)
    again = asked(settings)[3:]
    # In either order: the death may be noticed between the two.
    assert {one["project"] for one in again} == {2, 3}
    assert child not in {one["process"] for one in again}
    store.projects.update(1, live_version="")
    version = store.publications.get(2, "unet r0001")
    assert version is not None
    version.name = "unet r0002"
    store.publications.save(version)
    store.publications.go_live(2, "unet r0002")
    wait_for(lambda: 2 in [one["project"] for one in asked(settings)[5:]])


def test_a_start_may_wait_for_the_networks_that_are_live(
    drafts: DraftProcess, settings: Settings, store: Store
) -> None:
    drawing(store, {1: "a.png"}, project_id=3)
    drafts.keep_warm(wait_seconds=60)
    assert [(one["project"], one.get("task")) for one in asked(settings)] == [(3, None)]


def test_a_start_waits_no_longer_than_it_may(
    drafts: DraftProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = drafts._closed
    monkeypatch.setattr(DraftProcess, "_load_newest", lambda _: closed.wait())
    drafts.keep_warm(wait_seconds=0.1)  # else the test's own timeout ends it
    assert not drafts._looked.is_set()


def test_a_child_that_cannot_live_is_started_at_growing_intervals_and_said_once(
    drafts: DraftProcess,
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses: list[float] = []

    def wait(pause: float) -> bool:
        pauses.append(pause)
        return len(pauses) > 9

    def broken(self: DraftProcess) -> None:
        raise DraftError("The process ended.")

    monkeypatch.setattr(drafts._closed, "wait", wait)
    monkeypatch.setattr(DraftProcess, "_load_newest", broken)
    drafts._keep_warm()
    assert pauses == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 60.0, 60.0, 60.0, 60.0]
    assert [record.getMessage() for record in caplog.records] == ["The process ended."]


def test_after_closing_no_child_lives(drafts: DraftProcess) -> None:
    process_of(drafts(3, 1))
    drafts.close()
    with pytest.raises(DraftError):
        drafts(3, 1)
    assert drafts._child is not None
    drafts._child.process.join()
    assert drafts._child.process.exitcode == -signal.SIGKILL


class Broken:
    """Live drafts that fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def regions(self, project_id: int, task_id: int) -> list[dict[str, Any]]:
        raise self._error


def answer(error: Exception) -> dict[str, Any]:
    drafts = cast("LiveDrafts", Broken(error))
    return live_drafts._answer(drafts, {"project": 1, "task": 2})


def test_an_error_that_says_what_and_how_to_mend_it_goes_to_the_parent() -> None:
    error = ImageError("Task 2: it is no picture.", "Send another.")
    assert answer(error) == {"what": "Task 2: it is no picture.", "fix": "Send another."}


def test_a_defect_is_logged_in_the_child_and_not_told_to_the_parent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = answer(RuntimeError("Mrs Smith"))
    assert found["what"] == "The draft failed."
    assert "Smith" not in str(found)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "the draft failed"
