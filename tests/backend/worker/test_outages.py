"""Label Studio goes away at any call of a round, in any way: the round ends once it is back."""

from __future__ import annotations

import logging

import httpx
import pytest

from backend.web.ml_protocol import Answers, OneAtATime
from backend.web.refresh_requests import RefreshRequests
from tests.backend.site import Site, assert_each_task_once

# How a server or a line fails: down, slow beyond all patience, cut off in mid-answer, in trouble,
# too busy, and forgetting its tokens.
WAYS = (httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, 500, 429, 401)


def problems(site: Site) -> object:
    answers = Answers(site.store, RefreshRequests(site.store), OneAtATime(lambda *_: []))
    return answers.health().problems


def submit_again(site: Site) -> None:
    """Make the next round go all its way: read a label, train, publish, switch."""
    [annotation, *_] = site.fake.projects[site.number].annotations
    site.fake.change_annotation(annotation)
    site.store.projects.request_refresh(site.number)


def calls_of_a_round(site: Site) -> int:
    before = len(site.fake.requests)
    submit_again(site)
    assert site.refresh().problem == ""
    return len(site.fake.requests) - before


def outcome(site: Site) -> tuple[object, ...]:
    live = site.store.publications.get(site.number, site.project.live_version)
    assert live is not None
    return site.queue, live.labels, live.published, len(site.store.labels.annotations(site.number))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(WAYS, id="in turn", marks=pytest.mark.slow),
        *(pytest.param((way,), id=str(way), marks=pytest.mark.soak) for way in WAYS),
    ],
)
def test_an_outage_that_begins_at_any_call_is_said_once_and_heals(
    site: Site, caplog: pytest.LogCaptureFixture, ways: tuple[int | type[httpx.TransportError], ...]
) -> None:
    site.refresh()
    site.label(0, 1)
    site.refresh()
    calls = calls_of_a_round(site)
    undisturbed = outcome(site)
    for passed in range(calls):
        submit_again(site)
        site.fake.fail("", "", ways[passed % len(ways)], after=passed, times=10_000)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="backend"):
            failed = [site.refresh().problem, site.refresh().problem]
        assert all(failed), f"a round came to its end without call {passed} of {calls}"
        assert len(caplog.messages) == len(set(failed))
        assert problems(site)
        site.fake.heal()
        assert site.refresh().problem == ""
        assert outcome(site) == undisturbed
        assert_each_task_once(site)
    assert problems(site) == []
