"""A share of the scans is asked for twice, and comes back first to somebody else."""

from __future__ import annotations

import pytest

from backend.storage import artifacts, records
from tests.backend.site import Site

pytestmark = pytest.mark.seconds


def asked(site: Site) -> set[int]:
    tasks = site.fake.projects[site.number].tasks
    return {number for number, task in tasks.items() if task["overlap"] == 2}


def test_without_the_option_no_task_is_changed(site: Site) -> None:
    site.refresh()
    assert asked(site) == set()


def test_a_share_of_the_next_batch_needs_two_annotations_and_the_second_comes_first(
    site: Site,
) -> None:
    site.entry["extra_params"] |= {"second_reading": 0.5, "batch_size": 4}
    assert site.refresh().problem == ""
    chosen = asked(site)
    assert len(chosen) == 2
    assert chosen <= set(site.queue[:4])
    [first, *_] = [task for task in site.queue if task in chosen]
    site.label(site.tasks.index(first))
    assert site.refresh().problem == ""
    assert asked(site) == chosen, "half of one label and four scans are two"
    assert site.queue[0] == first
    live = site.store.publications.get(site.number, site.project.live_version)
    assert live is not None
    record = records.read_queue(site.services.files(site.number), live.round)
    assert record is not None
    assert record.reasons[0] == "has a label; a second annotation is asked for"
    site.label(site.tasks.index(first), by=2)
    site.refresh()
    assert first not in site.queue


def test_a_second_reading_shows_no_draft(site: Site) -> None:
    site.entry["extra_params"] |= {"second_reading": 1.0, "batch_size": 4}
    site.refresh()
    first, second = (site.tasks.index(task) for task in site.queue[:2])
    site.label(first, second)
    assert site.refresh().problem == ""
    again = {site.tasks[first], site.tasks[second]}
    assert {*site.queue[:2]} == again
    live = site.store.publications.get(site.number, site.project.live_version)
    assert live is not None
    stored = site.services.files(site.number).read_json(artifacts.drafts_named(live.drafts))
    assert {int(task) for task in stored or {}} == {*site.tasks} - again
    assert all(site.fake.prelabel(site.number, task) == [] for task in again)


def test_a_label_studio_that_refuses_costs_no_round(site: Site) -> None:
    site.entry["extra_params"] |= {"second_reading": 1.0}
    site.fake.fail("PATCH", r"/api/tasks/", 403)
    assert site.refresh().problem == ""
    assert site.project.live_version
    assert asked(site) == set()
