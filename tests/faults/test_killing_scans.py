"""A scan or a training that kills its process, beside a second project. The workers are real."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.storage.scans import KILLER_PAUSE_SECONDS
from backend.storage.tables import Task
from tests.backend.conftest import drawn
from tests.backend.crew import Crew, crew
from tests.backend.site import wait_for
from tests.faults import deadly_worker
from tests.faults.deadly_worker import SIZE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCANS = 6


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Crew]:
    with crew(f"sqlite:///{tmp_path}/firstlight.sqlite", tmp_path) as found:
        found.program = deadly_worker.main
        yield found


def add_deadly_scan(workers: Crew, number: int) -> int:
    task = workers.fake.add_task(number, np.zeros(SIZE))
    workers.store.projects.request_refresh(number)
    return task


def read(workers: Crew, number: int, task: int) -> Task:
    [found] = workers.store.scans.some(number, [task])
    return found


def until(workers: Crew, condition: Callable[[], object], died: Callable[[], None]) -> None:
    """Wait, start a worker wherever one ended, and call `died` before."""
    while not condition():
        wait_for(lambda: condition() or len(workers.ended()) == len(workers.workers), 100)
        if not condition():
            died()
            workers.replace()


def test_a_scan_that_kills_its_decoder_is_named_and_no_worker_dies(
    workers: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY", "decoder")
    number = workers.project(SCANS)
    deadly = add_deadly_scan(workers, number)
    workers.hire()
    workers.until_live(number)
    assert workers.ended() == []
    found = read(workers, number, deadly)
    assert found.problem.startswith(f"Task {deadly}: The decoder ended while it read the image")
    assert "killed by signal 9" in found.problem
    assert len(workers.store.embeddings.all(number, "pixels")) == SCANS


def test_a_scan_that_kills_the_worker_is_named_after_three_deaths_and_nobody_waits_for_it(
    workers: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY", "encoder")
    number = workers.project(SCANS)
    deadly = add_deadly_scan(workers, number)
    other = workers.project(SCANS)
    live_at_death: list[str] = []
    said: set[str] = set()

    def both_are_live() -> bool:
        mine = workers.store.projects.known(number)
        said.add(mine.problem)  # what the page says
        return bool(mine.live_version and workers.store.projects.known(other).live_version)

    workers.hire()
    until(
        workers,
        both_are_live,
        lambda: live_at_death.append(workers.store.projects.known(other).live_version),
    )
    assert workers.ended() == [-signal.SIGKILL] * 3
    assert live_at_death[0] == ""
    assert all(live_at_death[1:]), "the other project's queue came out after one restart"
    found = read(workers, number, deadly)
    assert found.problem.startswith(f"Task {deadly}: 3 workers died while they read or embedded")
    assert found.retry_at - time.time() > KILLER_PAUSE_SECONDS - 300
    assert len(workers.store.embeddings.all(number, "pixels")) == SCANS
    log = workers.log.read_text()
    for line in (f"{SCANS + 1} scans, of tasks", f"the scan of task {deadly}."):
        assert f"A worker died while it read or embedded {line}" in log
    assert any(line.startswith("A worker died while it read or embedded") for line in said)
    wait_for(lambda: not workers.store.projects.known(number).problem)


def test_a_training_that_kills_its_worker_is_said_and_lets_the_other_project_in(
    workers: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY", "training")
    number = workers.project(SCANS)
    for task in list(workers.fake.projects[number].tasks)[:3]:
        workers.fake.annotate(task, drawn(size=33))
    other = workers.project(SCANS)
    said: set[str] = set()

    def other_is_live() -> bool:
        said.add(workers.store.projects.known(number).problem)
        return bool(workers.store.projects.known(other).live_version and len(workers.ended()) >= 2)

    workers.hire()
    until(workers, other_is_live, lambda: None)
    assert any("workers in a row died in a round" in line for line in said)
    assert workers.ended()[:2] == [-signal.SIGKILL] * 2
