from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from dbos import DBOS

from backend.errors import LabelStudioError
from backend.label_studio.client import ProjectInfo
from backend.label_studio.publisher import QUIET_SECONDS
from backend.rounds import sync
from backend.rounds.services import Services
from backend.storage.projects import SETTLE_SECONDS
from backend.storage.scans import RETRY_SCAN_SECONDS
from backend.storage.schema import DOUBTED
from backend.storage.store import Store
from backend.worker import reconciliation
from backend.worker.membership import Membership
from tests.backend.conftest import Clock, the
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.site import Site

pytestmark = pytest.mark.databases


class Timer:
    """A project that was synced and is at rest, and the timer's look at it."""

    def __init__(self, services: Services, fake: FakeLabelStudio, number: int) -> None:
        self.services, self.store, self.fake, self.number = services, services.store, fake, number
        self.tasks = [fake.add_task(number) for _ in range(3)]
        sync.sync(services.studio, self.store, the(self.store, number))
        self.store.projects.update(number, completed=the(self.store, number).requested)

    def tick(self) -> bool:
        """Return whether the timer asks for a refresh."""
        before = the(self.store, self.number)
        reconciliation.reconcile(self.services, before)
        return the(self.store, self.number).requested > before.requested

    def meanwhile(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
        """Let something happen between what a look knows of the project and what it asks."""
        asked = self.services.studio.project

        def overtaken(number: int) -> ProjectInfo:
            act()
            return asked(number)

        monkeypatch.setattr(self.services.studio, "project", overtaken)


@pytest.fixture
def timer(services: Services, fake: FakeLabelStudio, project_id: int) -> Timer:
    return Timer(services, fake, project_id)


def test_finished_refreshes_are_forgotten_after_a_week(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.refresh()
    reconciliation._delete_finished()
    kept = len(DBOS.list_workflows())
    assert kept >= 1
    monkeypatch.setattr(reconciliation, "FINISHED_DAYS", -1)
    reconciliation._delete_finished()
    assert DBOS.list_workflows() == []


def test_the_timer_asks_for_nothing_while_nothing_changes(timer: Timer) -> None:
    assert not timer.tick()
    assert not timer.tick()


def test_the_timer_sees_what_no_webhook_told(timer: Timer) -> None:
    timer.fake.annotate(timer.tasks[0])
    assert timer.tick()


def test_the_timer_has_everything_read_again_after_six_hours(timer: Timer, clock: Clock) -> None:
    clock.advance(sync.FULL_SYNC_SECONDS - 1)
    assert not timer.tick()
    clock.advance(1)
    assert timer.tick()


def test_the_timer_sees_changed_options(timer: Timer) -> None:
    [entry] = timer.fake.entries.values()
    entry["extra_params"] = {"alpha": 0.5}
    assert timer.tick()


def test_an_unreadable_scan_is_tried_again_when_it_is_time(timer: Timer, clock: Clock) -> None:
    retry_at = clock() + RETRY_SCAN_SECONDS
    waits = {"problem": "broken", "retry_at": retry_at, "pause": RETRY_SCAN_SECONDS}
    timer.store.scans.update(timer.number, timer.tasks[0], **waits)
    assert not timer.tick()
    clock.advance(RETRY_SCAN_SECONDS)
    assert timer.tick()


def test_a_label_studio_that_is_down_is_said_once_and_the_word_is_taken_back(
    timer: Timer, caplog: pytest.LogCaptureFixture
) -> None:
    timer.fake.fail("GET", "", httpx.ConnectError, times=99)
    with caplog.at_level(logging.WARNING, logger="backend.worker.reconciliation"):
        assert not any(timer.tick() for _ in range(3))
    assert len(caplog.records) == 1
    assert "did not answer" in the(timer.store, timer.number).problem
    timer.fake.heal()
    timer.tick()
    assert the(timer.store, timer.number).problem == ""


def test_the_word_is_taken_back_too_while_a_refresh_waits_for_its_time(timer: Timer) -> None:
    timer.fake.fail("GET", "", httpx.ConnectError, times=99)
    timer.tick()
    timer.fake.heal()
    timer.store.projects.request_refresh(timer.number)
    wanted = the(timer.store, timer.number).requested
    reconciliation._reconcile_one(timer.services, timer.number)
    project = the(timer.store, timer.number)
    assert (project.problem, project.requested) == ("", wanted)


def test_what_a_refresh_failed_of_is_not_for_the_timer_to_take_back(
    timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer.fake.fail("GET", "", httpx.ConnectError, times=99)
    timer.tick()
    timer.fake.heal()

    def refresh_fails() -> None:
        timer.store.projects.update(timer.number, problem="The disk is full.", failures=1)

    timer.meanwhile(monkeypatch, refresh_fails)
    timer.tick()
    assert the(timer.store, timer.number).problem == "The disk is full."


def test_a_look_that_a_disconnection_overtook_finds_no_problem(
    timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disconnect() -> None:
        timer.fake.entries.clear()
        timer.store.projects.update(timer.number, disconnected=True)

    timer.meanwhile(monkeypatch, disconnect)
    assert not timer.tick()
    project = the(timer.store, timer.number)
    assert (project.disconnected, project.problem) == (True, "")


def test_a_defect_met_at_one_project_costs_the_others_nothing(
    timer: Timer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(reconciliation, "reconcile", broken)
    reconciliation._reconcile_one(timer.services, timer.number)
    assert "failed unexpectedly" in caplog.text


def test_a_project_without_our_entry_is_told_how_to_get_one(timer: Timer) -> None:
    timer.fake.entries.clear()
    assert not timer.tick()
    project = the(timer.store, timer.number)
    assert not project.disconnected
    assert f"connect {timer.number}" in project.fix


def test_a_look_while_a_round_changes_the_live_version_finds_no_problem(
    timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish() -> None:
        [entry] = timer.fake.entries.values()
        entry["model_version"] = "attention-unet r0002 0a1b2c"
        timer.store.projects.update(timer.number, live_version="attention-unet r0002 0a1b2c")

    timer.meanwhile(monkeypatch, publish)
    assert not timer.tick()
    assert the(timer.store, timer.number).problem == ""
    assert not timer.tick()


def test_the_timer_looks_at_no_project_with_a_refresh_on_its_way(
    timer: Timer, caplog: pytest.LogCaptureFixture
) -> None:
    timer.fake.fail("GET", "", httpx.ConnectError, times=99)
    timer.store.projects.request_refresh(timer.number)
    reconciliation._reconcile_one(timer.services, timer.number)
    assert the(timer.store, timer.number).problem == ""
    assert caplog.text == ""


def test_a_project_that_vanished_is_said_asked_for_and_taken_up_again(
    timer: Timer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    backup = timer.fake.backup()
    timer.fake.projects.clear()
    timer.fake.entries.clear()
    with caplog.at_level(logging.WARNING, logger="backend.worker.reconciliation"):
        for _ in range(3):
            assert not timer.tick()
            clock.advance(60)
    assert len(caplog.records) == 1
    project = the(timer.store, timer.number)
    assert (project.disconnected, project.vanished_at) == (False, clock() - 180)
    assert "no such project" in project.problem
    timer.fake.restore(backup)
    assert timer.tick()
    assert the(timer.store, timer.number).vanished_at == 0


def test_a_project_that_comes_back_without_our_entry_is_told_how_to_get_one(timer: Timer) -> None:
    backup = timer.fake.backup()
    timer.fake.projects.clear()
    assert not timer.tick()
    timer.fake.restore(backup)
    timer.fake.entries.clear()
    assert timer.tick(), "a refresh says what is missing"
    assert the(timer.store, timer.number).vanished_at == 0


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, text="404 page not found"),
        httpx.Response(404, json={"status_code": 404, "detail": "Not found."}),
        httpx.Response(401, json={"status_code": 401, "detail": "Invalid token."}),
        httpx.Response(200, text="<html>Sign in</html>"),
        httpx.Response(500, text="Internal Server Error"),
    ],
    ids=["proxy", "json", "401", "html", "500"],
)
def test_whatever_answers_while_label_studio_is_away_no_project_is_lost(
    timer: Timer, answer: httpx.Response
) -> None:
    timer.fake.away = lambda _: answer
    for _ in range(3):
        reconciliation._reconcile_one(timer.services, timer.number)
    project = the(timer.store, timer.number)
    assert (project.disconnected, project.vanished_at) == (False, 0)
    assert project.problem
    timer.fake.annotate(timer.tasks[0])
    timer.fake.away = None
    assert timer.tick()
    assert the(timer.store, timer.number).problem == ""


def test_a_project_with_an_entry_of_ours_is_taken_up(
    services: Services, store: Store, fake: FakeLabelStudio, clock: Clock
) -> None:
    number = fake.add_project()
    fake.connect(number)
    store.projects.sight(number)
    reconciliation.take_up(services)
    assert store.projects.all() == [], "Label Studio saves its entry after the call"
    clock.advance(SETTLE_SECONDS)
    reconciliation.take_up(services)
    assert the(store, number).requested == 1
    assert store.projects.sightings() == []


def test_a_disconnected_project_is_taken_up_when_it_has_an_entry_again(
    services: Services, store: Store, fake: FakeLabelStudio, project_id: int, clock: Clock
) -> None:
    store.projects.update(project_id, disconnected=True)
    store.projects.sight(project_id)
    clock.advance(SETTLE_SECONDS)
    entries = dict(fake.entries)
    fake.entries.clear()
    reconciliation.take_up(services)
    assert the(store, project_id).disconnected
    fake.entries |= entries
    reconciliation.take_up(services)
    assert not the(store, project_id).disconnected


def test_made_up_projects_leave_nothing_and_a_label_studio_that_is_down_loses_none(
    services: Services, store: Store, fake: FakeLabelStudio, clock: Clock
) -> None:
    store.projects.sight(77)
    clock.advance(SETTLE_SECONDS)
    fake.fail("", "", httpx.ConnectError, times=99)
    with pytest.raises(LabelStudioError):
        reconciliation.take_up(services)
    fake.heal()
    reconciliation.take_up(services)
    assert len(store.projects.sightings()) == 1, "its entry may be saved yet"
    clock.advance(reconciliation.FORGET_SIGHTING_SECONDS)
    reconciliation.take_up(services)
    assert (store.projects.sightings(), store.projects.all()) == ([], [])


def test_the_calls_of_setup_that_a_look_causes_do_not_make_it_look_for_ever(
    services: Services, store: Store, fake: FakeLabelStudio, clock: Clock
) -> None:
    number = fake.add_project()
    fake.connect(number)

    def setup(project_id: int) -> str:
        store.projects.sight(project_id)  # as our /setup does
        return "another service"

    fake.setup = setup
    store.projects.sight(number)
    for _ in range(20):
        clock.advance(1)
        reconciliation.take_up(services)
        if not store.projects.sightings():
            break
    assert store.projects.sightings() == []


def test_one_project_that_cannot_be_asked_for_hides_no_other(
    services: Services, store: Store, fake: FakeLabelStudio, clock: Clock
) -> None:
    first, second = fake.add_project(), fake.add_project()
    fake.connect(second)
    fake.fail("GET", "/api/ml", 500, times=3)  # with the repeats of one call
    for number in (first, second):
        store.projects.sight(number)
        clock.advance(0.1)
    clock.advance(SETTLE_SECONDS)
    reconciliation.take_up(services)
    assert [project.id for project in store.projects.all()] == [second]


def test_while_the_token_is_refused_new_projects_wait(
    services: Services, store: Store, fake: FakeLabelStudio, clock: Clock
) -> None:
    number = fake.add_project()
    fake.connect(number)
    store.projects.sight(number)
    clock.advance(reconciliation.FORGET_SIGHTING_SECONDS)
    fake.fail("", "/api/", 401, times=99)
    with pytest.raises(LabelStudioError):
        reconciliation.take_up(services)
    fake.heal()
    reconciliation.take_up(services)
    assert the(store, number).requested == 1


def test_a_project_that_was_disconnected_by_hand_before_this_release_stays_so(
    timer: Timer,
) -> None:
    timer.fake.entries.clear()
    timer.store.projects.update(timer.number, vanished_at=DOUBTED)
    assert not timer.tick()
    project = the(timer.store, timer.number)
    assert (project.disconnected, project.vanished_at, project.problem) == (True, 0, "")


def test_a_clock_that_was_set_is_noticed_once() -> None:
    clock, steady = Clock(), Clock()
    watch = reconciliation.ClockWatch(clock, steady)
    for passed, jumps in ((60, 0), (3600, 0), (60, 86_400), (60, 0), (60, -86_400)):
        steady.advance(passed)
        clock.advance(passed + jumps)
        assert watch.jumped() == bool(jumps)
        assert not watch.jumped()


def test_old_versions_go_while_everything_rests(site: Site, clock: Clock) -> None:
    for alpha in (0.1, 0.2, 0.3, 0.4):
        site.entry["extra_params"] = {**site.entry["extra_params"], "alpha": alpha}
        site.store.projects.request_refresh(site.number)
        site.refresh()
    assert len(site.fake.versions(site.number)) == 4
    clock.advance(QUIET_SECONDS)
    for _ in range(4):
        reconciliation.reconcile(site.services, site.project)
    kept = {found.name for found in site.store.publications.all(site.number)[-2:]}
    assert set(site.fake.versions(site.number)) == kept


def test_the_timer_outlives_a_defect_of_ours(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks, stop = [0], threading.Event()

    def broken() -> list[Any]:
        ticks[0] += 1
        if ticks[0] == 2:
            stop.set()
        raise KeyError("unforeseen")

    monkeypatch.setattr(services.store.projects, "all", broken)
    quick = Services(
        settings=services.settings.model_copy(update={"reconcile_seconds": 0.001}),
        store=services.store,
        studio=services.studio,
        source=services.source,
    )
    member = Membership(services.store.workers)
    member.join(alone=True)
    reconciliation.run_timer(quick, member, stop)
    assert ticks == [2]
    assert "the timer failed unexpectedly" in caplog.text
