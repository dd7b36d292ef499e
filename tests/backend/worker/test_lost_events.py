"""Webhooks are requests: lost, doubled or late ones, or about deleted things, change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.rounds import sync
from backend.rounds.services import Services
from backend.storage.store import Store
from backend.web.ml_protocol import Answers, OneAtATime
from backend.web.refresh_requests import RefreshRequests
from backend.worker import reconciliation, recovery
from tests.backend.conftest import Clock, drawn, the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

OTHER_CONFIG = CONFIG.replace("Lung", "Heart")


class Day:
    """A day of a project: people change things, and events of it arrive, or do not."""

    def __init__(self, services: Services, fake: FakeLabelStudio, clock: Clock) -> None:
        self.services, self.store, self.fake = services, services.store, fake
        self.clock = clock
        self.number = fake.add_project()
        fake.connect(self.number)
        self.store.projects.request_refresh(self.number)
        self.answers = Answers(self.store, RefreshRequests(self.store), OneAtATime(lambda *_: []))
        self.events: list[dict[str, Any]] = []
        self.backup = fake.backup()

    # -- what people do -------------------------------------------------------------------------

    def do(self, what: str, which: int) -> None:
        """Do one thing to one of the tasks or annotations; without any it is nothing."""
        changes: dict[str, Callable[[int], object]] = {
            "TASKS_CREATED": lambda _: self.fake.add_task(self.number),
            "TASKS_DELETED": self._to_a_task(self.fake.delete_task),
            "ANNOTATION_CREATED": self._to_a_task(lambda task: self.fake.annotate(task, drawn())),
            "ANNOTATION_UPDATED": self._to_an_annotation(
                lambda found: self.fake.change_annotation(found, result=drawn(slice(which, 9)))
            ),
            "ANNOTATIONS_DELETED": self._to_an_annotation(self.fake.delete_annotation),
            "skip": self._to_a_task(lambda task: self.fake.annotate(task, skip=True)),
            "storage": lambda _: self.fake.add_task(self.number),
            "PROJECT_UPDATED": self._relabel,
            "remove duplicates": self._remove_duplicate,
            "backup": lambda _: vars(self).update(backup=self.fake.backup()),
            "restore": lambda _: self.fake.restore(self.backup),
            "clock": self._set_clock,
        }
        changes[what](which)
        self.events.append({"action": what, "project": {"id": self.number}})

    def _to_a_task(self, change: Callable[[int], object]) -> Callable[[int], object]:
        return lambda which: self._to(list(self._project.tasks), which, change)

    def _to_an_annotation(self, change: Callable[[int], object]) -> Callable[[int], object]:
        return lambda which: self._to(list(self._project.annotations), which, change)

    def _to(self, ids: list[int], which: int, change: Callable[[int], object]) -> None:
        if ids:
            change(ids[which % len(ids)])

    def _remove_duplicate(self, which: int) -> None:
        ids = list(self._project.tasks)
        if len(ids) > 1:
            self.fake.remove_duplicate(ids[which % len(ids)], ids[(which + 1) % len(ids)])

    def _set_clock(self, which: int) -> None:
        """Jump by a day, ahead or back; the worker's timer notices."""
        self.clock.advance((-1) ** which * 86_400)
        recovery.request_all_refreshes(self.store, full=True)

    def _relabel(self, _: int) -> None:
        self._project.label_config = OTHER_CONFIG

    @property
    def _project(self) -> Any:
        return self.fake.projects[self.number]

    # -- what the backend hears and does --------------------------------------------------------

    def hear(self, number: int) -> None:
        """Some event of the day so far comes in, or one about what nobody knows."""
        event = self.events[number % len(self.events)] if self.events else {"project": 10**6}
        self.answers.webhook(event)

    def work(self) -> None:
        project = the(self.store, self.number)
        if project.requested > project.completed:
            sync.sync(self.services.studio, self.store, project)
            self.store.projects.update(self.number, completed=project.requested)

    def reconcile(self) -> None:
        reconciliation.reconcile(self.services, the(self.store, self.number))

    # -- what both know -------------------------------------------------------------------------

    def ledger(self) -> Any:
        annotations = self.store.labels.annotations(self.number)
        results = self.store.labels.results(self.number, [found.id for found in annotations])
        return (
            [(task.id, task.url) for task in self.store.scans.all(self.number)],
            [
                (found.id, found.task_id, found.cancelled, result)
                for found, result in zip(annotations, results, strict=True)
            ],
            the(self.store, self.number).label_config,
        )

    def truth(self) -> Any:
        return (
            [(task["id"], task["data"]["image"]) for task in self._project.tasks.values()],
            [
                (found["id"], found["task"], found["was_cancelled"], found["result"])
                for found in self._project.annotations.values()
            ],
            self._project.label_config,
        )


@pytest.fixture
def day(services: Services, fake: FakeLabelStudio, clock: Clock) -> Callable[[], Day]:
    return lambda: Day(services, fake, clock)


CHANGES = (
    "TASKS_CREATED",
    "TASKS_DELETED",
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "PROJECT_UPDATED",
    "skip",
    "storage",
    "remove duplicates",
    "backup",
    "restore",
    "clock",
)
HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(CHANGES), st.integers(0, 8))
    | st.tuples(st.just("hear"), st.integers(0, 30))
    | st.just(("work", 0)),
    max_size=30,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings=HAPPENINGS)
def test_after_the_timer_the_ledger_is_what_label_studio_says_whatever_was_heard(
    day: Callable[[], Day], happenings: list[tuple[str, int]]
) -> None:
    today = day()
    today.work()
    for what, which in happenings:
        if what == "hear":
            today.hear(which)
        elif what == "work":
            today.work()
        else:
            today.do(what, which)
    today.work()
    today.reconcile()
    today.work()
    assert today.ledger() == today.truth()


def test_an_event_of_a_project_that_nobody_connected_leaves_no_trace(
    day: Callable[[], Day], store: Store
) -> None:
    known = day()
    before = [found.id for found in store.projects.all()]
    for project in (0, -1, 10**6, known.number + 1, "no id", None):
        answer = known.answers.webhook({"action": "ANNOTATION_CREATED", "project": project})
        assert answer["status"] == "ignored"
    assert [found.id for found in store.projects.all()] == before
