from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as checked
from hypothesis import strategies as st

from backend.storage.store import Store
from backend.storage.workers import LIVELY_SECONDS, lively
from backend.worker.membership import BEAT_SECONDS, SILENT_SECONDS, Membership
from tests.backend.conftest import Clock

pytestmark = pytest.mark.databases


def joined(store: Store, clock: Clock) -> Membership:
    member = Membership(store.workers, clock=clock)
    member.join(alone=False)
    return member


def pass_by(clock: Clock, here: Membership, seconds: float) -> None:
    """Let time pass for one that looks every second."""
    here.living()
    for _ in range(int(seconds)):
        clock.advance(1)
        here.living()


def test_a_worker_is_taken_for_gone_once_it_was_silent_for_long_enough(
    store: Store, clock: Clock
) -> None:
    here, there = joined(store, clock), joined(store, clock)
    assert set(here.living()) == {here.name, there.name}
    pass_by(clock, here, SILENT_SECONDS - 1)
    assert there.name in here.living()
    clock.advance(1)
    assert here.living() == [here.name]


def test_a_worker_that_was_taken_for_gone_hears_of_it_at_its_next_beat(
    store: Store, clock: Clock
) -> None:
    here, there = joined(store, clock), joined(store, clock)
    assert there.beat()
    pass_by(clock, here, SILENT_SECONDS)
    assert not there.beat()
    assert here.beat()


def test_a_time_in_which_nobody_could_look_is_held_against_nobody(
    store: Store, clock: Clock
) -> None:
    here, there = joined(store, clock), joined(store, clock)
    here.living()
    clock.advance(10 * SILENT_SECONDS)  # the database was away
    assert there.name in here.living()
    assert there.beat()
    pass_by(clock, here, BEAT_SECONDS)
    assert there.name in here.living()


def test_nobody_takes_itself_for_gone(store: Store, clock: Clock) -> None:
    here = joined(store, clock)
    pass_by(clock, here, 10 * SILENT_SECONDS)
    assert here.living() == [here.name]


def test_a_beat_that_comes_while_somebody_looks_saves_the_worker(
    store: Store, clock: Clock
) -> None:
    here, there = joined(store, clock), joined(store, clock)
    [seen] = [one for one in store.workers.all() if one.name == there.name]
    there.beat()
    store.workers.dismiss(there.name, seen.beats)
    assert there.name in here.living()


def test_clocks_that_are_hours_apart_do_not_matter(store: Store, clock: Clock) -> None:
    here = Membership(store.workers, clock=clock)
    here.join(alone=False)
    there = joined(store, Clock(now=clock.now - 7200))
    for _ in range(20):
        clock.advance(BEAT_SECONDS)
        there.beat()
        assert there.name in here.living()


def test_one_worker_leads_and_the_next_oldest_after_it(store: Store, clock: Clock) -> None:
    members = []
    for _ in range(3):
        members.append(joined(store, clock))
        clock.advance(1)
    assert [member.leads() for member in members] == [True, False, False]
    members[0].leave()
    assert [member.leads() for member in members] == [False, True, False]


def test_who_knows_that_it_is_alone_waits_for_nobodys_silence(store: Store, clock: Clock) -> None:
    joined(store, clock)
    here = Membership(store.workers, clock=clock)
    here.join(alone=True)
    assert here.living() == [here.name]


def test_others_go_by_the_hour_for_a_minute(store: Store, clock: Clock) -> None:
    assert lively(store.workers) == []
    joined(store, clock)
    clock.advance(LIVELY_SECONDS - 1)
    assert len(lively(store.workers)) == 1
    clock.advance(1)
    assert lively(store.workers) == []


@pytest.mark.seconds
@given(steps=st.lists(st.sampled_from(["beat", "look", "second", "stop"]), max_size=80))
@checked(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_who_beats_in_time_is_never_taken_for_gone_and_who_stops_always_is(
    store: Store, clock: Clock, steps: list[str]
) -> None:
    for worker in store.workers.all():
        store.workers.dismiss(worker.name)
    here, there = joined(store, clock), joined(store, clock)
    stopped_at = None
    for step in steps:
        if step == "look":
            here.living()
        elif step == "stop":
            stopped_at = stopped_at or clock.now
        elif step == "second":
            clock.advance(1)
        if stopped_at is None and (step == "beat" or clock.now % BEAT_SECONDS == 0):
            assert there.beat()
    if stopped_at is None:
        assert there.name in here.living()
        assert there.beat()
    else:
        pass_by(clock, here, SILENT_SECONDS)
        assert here.living() == [here.name]
