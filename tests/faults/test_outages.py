"""Label Studio goes away under a running worker, in every way, and comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.backend.conftest import drawn
from tests.backend.crew import TICKS, Crew, crew
from tests.backend.fake_label_studio import error
from tests.backend.site import SIZE, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TICK = 2  # seconds between two looks of the timer
# At each of two ticks the timer may look, and a refresh that waited may ask and ask once more.
MOST_LOOKS = 6

Answer = Callable[[httpx.Request], httpx.Response]
WAYS: dict[str, Answer | None] = {
    "a proxy says 404": lambda _: httpx.Response(404, text="404 page not found"),
    "a proxy says 404 in JSON": lambda _: error(404, "Not found."),
    "the token is refused": lambda _: error(401, "Invalid token."),
    "500": lambda _: httpx.Response(500, text="Internal Server Error"),
    "a sign-in page": lambda _: httpx.Response(200, text="<html>Sign in</html>"),
    "an empty database": None,
}


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    monkeypatch.setenv(TICKS, str(TICK))
    with crew(f"sqlite:///{tmp_path}/firstlight.sqlite", tmp_path) as found:
        yield found


def labelled(workers: Crew, number: int) -> set[int]:
    return {found.task_id for found in workers.store.labels.annotations(number)}


def looks_until(workers: Crew, condition: Callable[[], object]) -> int:
    """Return how often the timer or a refresh asked for the project until something was so."""
    before = workers.fake.calls("GET", r"^/api/projects/\d+$")
    wait_for(condition, 100)
    return workers.fake.calls("GET", r"^/api/projects/\d+$") - before


def test_after_an_outage_of_any_kind_every_label_is_known_and_the_queue_is_current(
    workers: Crew,
) -> None:
    """One worker lives through all of them, so that none leaves anything behind."""
    workers.hire()
    number = workers.project(len(WAYS) + 3)
    workers.until_live(number)
    wait_for(lambda: len(workers.fake.served(number)) == len(WAYS) + 3)
    for way, answer in WAYS.items():
        live_through(workers, number, way, answer)
    assert workers.ended() == []


def live_through(workers: Crew, number: int, way: str, answer: Answer | None) -> None:
    """Submit a label at the end of an outage, and wait until it is known and used."""
    fake, store = workers.fake, workers.store
    live, task, backup = (
        store.projects.known(number).live_version,
        fake.served(number)[0],
        fake.backup(),
    )
    if answer is None:
        fake.projects.clear()
        fake.entries.clear()
    else:
        fake.away = answer
    store.projects.request_refresh(
        number
    )  # a refresh meets the outage too, and fails again and again
    wait_for(lambda: store.projects.known(number).problem, 100)
    wait_for(
        lambda: (
            store.projects.known(number).failures >= 3 or store.projects.known(number).vanished_at
        ),
        100,
    )
    project = store.projects.known(number)
    assert not project.disconnected, way
    assert bool(project.vanished_at) == (answer is None), way
    if answer is None:
        fake.restore(backup)
    fake.annotate(task, drawn(size=SIZE))
    fake.away = None
    assert looks_until(workers, lambda: task in labelled(workers, number)) <= MOST_LOOKS, way
    wait_for(lambda: store.projects.known(number).live_version != live, 100)
    wait_for(
        lambda: not store.projects.known(number).problem and not store.projects.known(number).step,
        100,
    )
    wait_for(lambda: task not in fake.served(number))
