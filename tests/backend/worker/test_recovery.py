from __future__ import annotations

import pytest
from dbos import DBOS, SetEnqueueOptions

from backend.rounds.context import RoundContext
from backend.rounds.idle import idle_studies
from backend.rounds.workflow import REFRESH_QUEUE
from backend.worker import recovery
from backend.worker.membership import Membership
from tests.backend.site import Site, refreshes, rewrite_workflow

pytestmark = pytest.mark.databases


def test_refreshes_of_another_release_are_cancelled_and_wanted_anew(site: Site) -> None:
    with SetEnqueueOptions(app_version="0"):
        DBOS.enqueue_workflow(REFRESH_QUEUE, site.rounds.refresh, site.number)
    wanted = site.project.requested
    recovery.cancel_other_releases(site.services, site.member)
    assert [found.status for found in refreshes()] == ["CANCELLED"]
    assert site.project.requested == wanted + 1
    recovery.cancel_other_releases(site.services, site.member)
    assert site.project.requested == wanted + 1


def test_a_refresh_of_another_release_is_left_to_its_workers_until_they_are_gone(
    site: Site,
) -> None:
    other = Membership(site.store.workers, "0")
    other.join(alone=False)
    with SetEnqueueOptions(app_version="0"):
        DBOS.enqueue_workflow(REFRESH_QUEUE, site.rounds.refresh, site.number)
    recovery.cancel_other_releases(site.services, site.member)
    assert [found.status for found in refreshes()] == ["ENQUEUED"]
    other.leave()
    recovery.cancel_other_releases(site.services, site.member)
    assert [found.status for found in refreshes()] == ["CANCELLED"]


def test_a_refresh_of_another_release_does_not_wake_a_project_that_was_disconnected(
    site: Site,
) -> None:
    with SetEnqueueOptions(app_version="0"):
        DBOS.enqueue_workflow(REFRESH_QUEUE, site.rounds.refresh, site.number)
    site.store.projects.update(site.number, disconnected=True)
    wanted = site.project.requested
    recovery.cancel_other_releases(site.services, site.member)
    assert [found.status for found in refreshes()] == ["CANCELLED"]
    assert (site.project.disconnected, site.project.requested) == (True, wanted)


def test_a_refinement_in_which_two_workers_died_is_given_up_and_rounds_go_on(site: Site) -> None:
    site.label(0, 1)
    site.refresh()
    model = site.store.publications.newest_model(site.number)
    assert model is not None
    assert not model.quality.settled
    site.store.projects.enter(site.number, "refine")
    site.store.projects.update(site.number, deaths=recovery.MOST_DEATHS)
    recovery._back_off(site.store, site.number, gone={"a dead worker"})
    model = site.store.publications.newest_model(site.number)
    assert model is not None
    assert model.quality.settled
    project = site.project
    assert (project.problem, project.step, project.deaths) == ("", "", 0)
    assert project.not_before <= site.clock()


def test_a_review_in_which_two_workers_died_waits_for_the_next_queue(site: Site) -> None:
    site.store.projects.enter(site.number, "review")
    site.store.projects.update(site.number, deaths=recovery.MOST_DEATHS)
    recovery._back_off(site.store, site.number, gone={"a dead worker"})
    here = RoundContext.of(site.services, site.rounds._encoders, site.number)
    assert idle_studies._failures(site.store, here.project, "review") == idle_studies.MOST_FAILURES
    assert (site.project.problem, site.project.step, site.project.deaths) == ("", "", 0)


def leave_refresh_of_dead_worker(site: Site) -> None:
    """Put a refresh into the jobs database whose worker is gone."""
    options = SetEnqueueOptions(app_version="0", deduplication_id=str(site.number))
    with options:  # of a release without a worker, so no worker takes the refresh
        handle = DBOS.enqueue_workflow(REFRESH_QUEUE, site.rounds.refresh, site.number)
    rewrite_workflow(
        handle.workflow_id,
        status="PENDING",
        executor_id="gone",
        application_version=recovery.RELEASE,
    )


def test_two_workers_that_look_at_once_count_one_death(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Membership(site.store.workers, recovery.RELEASE)
    other.join(alone=False)
    leave_refresh_of_dead_worker(site)
    # Each of the two sees the refresh before the other has put it back.
    monkeypatch.setattr(DBOS, "_recover_pending_workflows", lambda _: None)
    recovery.recover(site.store, site.member)
    recovery.recover(site.store, other)
    assert site.project.deaths == 1
    assert site.project.problem == ""


def test_the_oldest_worker_of_a_release_recovers_what_that_release_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_release = Membership(site.store.workers, "0", clock=lambda: 0.0)
    older_release.join(alone=False)
    site.member.leave()
    newer = Membership(site.store.workers, recovery.RELEASE)
    newer.join(alone=False)
    leave_refresh_of_dead_worker(site)
    put_back: list[str] = []
    monkeypatch.setattr(DBOS, "_recover_pending_workflows", put_back.extend)
    recovery.recover(site.store, newer)
    assert put_back == ["gone"]
    assert site.project.deaths == 1
