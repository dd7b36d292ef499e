from __future__ import annotations

import pytest
from dbos import DBOS, SetEnqueueOptions

from backend.rounds.workflow import REFRESH_QUEUE
from backend.worker import recovery
from backend.worker.membership import Membership
from tests.backend.site import Site, refreshes

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
