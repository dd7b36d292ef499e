"""The option `by_minutes`: what is recorded, when minutes decide, and what the page is told."""

from __future__ import annotations

from typing import Any

import pytest

from backend.rounds.services import Services
from backend.storage import records
from backend.storage.records import QueueRecord
from backend.storage.tables import Annotation
from model.expected_minutes import LEAST, MaskSummary
from tests.backend.rounds.test_selection import Pool
from tests.backend.site import Site

COUNT = 40
TIMED = [*range(1, LEAST + 1)]  # tasks that get a label with a time
WAITING = [*range(LEAST + 1, COUNT + 1)]


class TimedPool(Pool):
    """Scans in which a model sees one to five regions, and that take a minute for each."""

    def regions(self, task: int) -> int:
        return 1 + task % 5

    def judged(self, *tasks: int, **same: Any) -> dict[int, MaskSummary]:
        return {
            task: MaskSummary(0.5, area=0.1, regions=float(self.regions(task)))._replace(**same)
            for task in tasks
        }

    def publish(self, number: int, *tasks: int, **same: Any) -> QueueRecord:
        """Make a queue live that was ranked by a model that judged these scans."""
        record = self.selector.rank(self.now, self.judged(*tasks, **same), number=number)
        self.go_live(number, record)
        return record

    def timed_label(self, task: int, seconds: float | None) -> None:
        number = self.label(task)
        with self.store.session() as session:
            row = session.get_one(Annotation, (1, number))
            row.seconds, row.annotator = seconds, 1


@pytest.fixture
def pool(services: Services) -> TimedPool:
    pool = TimedPool(services, COUNT)
    pool.options(by_minutes=True, alpha=0.0, cold_start_budget=1, acquisition="entropy")
    return pool


def label_all(pool: TimedPool) -> None:
    for task in TIMED:
        pool.timed_label(task, 60.0 * pool.regions(task))


def ready(pool: TimedPool) -> QueueRecord:
    """Return a queue for which enough labels have a time and were judged before."""
    pool.publish(1, *TIMED, *WAITING)
    label_all(pool)
    return pool.selector.rank(pool.now, pool.judged(*WAITING), number=2)


def test_the_order_is_that_of_the_utility_per_expected_minute(pool: TimedPool) -> None:
    pool.publish(1, *TIMED, *WAITING)
    label_all(pool)
    judged = {
        task: seen._replace(uncertainty=0.5 + task / 1000)
        for task, seen in pool.judged(*WAITING).items()
    }
    record = pool.selector.rank(pool.now, judged, number=2)
    first = record.order[0]
    terms = record.scans
    worth = {task: terms[task]["utility"] / terms[task]["minutes"] for task in WAITING}
    assert first == max(worth, key=lambda task: worth[task])
    assert [*record.order] == sorted(WAITING, key=lambda task: -worth[task])
    pool.options(by_minutes=False)
    assert pool.selector.rank(pool.now, judged, number=2).order[0] == COUNT


def test_the_record_holds_the_expected_minutes_and_how_well_they_are_predicted(
    pool: TimedPool,
) -> None:
    record = ready(pool)
    assert record.minutes_r2 is not None
    assert record.minutes_r2 > 0.5
    for task in WAITING:
        terms = record.scans[task]
        assert terms["minutes"] == pytest.approx(pool.regions(task), rel=0.3)
        assert (terms["area"], terms["regions"]) == (0.1, pool.regions(task))
        assert record.reason_of[task].endswith(f"about {terms['minutes']:.1f} min")
    assert not [line for line in record.warnings if "by_minutes" in line]


def test_what_a_model_saw_before_a_label_is_carried_from_record_to_record(pool: TimedPool) -> None:
    pool.publish(1, *TIMED, *WAITING)
    label_all(pool)
    pool.publish(2, *WAITING, regions=9.0)
    record = pool.publish(3, *WAITING, regions=9.0)
    assert record.before == {task: [0.5, 0.1, pool.regions(task)] for task in TIMED}
    pool.publish(4)  # no model scored
    pool.unlabel(TIMED[0])
    record = pool.selector.rank(pool.now, pool.judged(*WAITING), number=5)
    assert sorted(record.before) == TIMED[1:]


def test_a_scan_that_no_model_has_scored_gets_the_minutes_of_its_neighbours(
    pool: TimedPool,
) -> None:
    pool.publish(1, *TIMED)
    label_all(pool)
    pool.options(score_limit=5)
    scored = WAITING[:5]
    record = pool.selector.rank(pool.now, pool.judged(*scored), scored, 2)
    known = [record.scans[task]["minutes"] for task in scored]
    for task in WAITING[5:]:
        assert record.scans[task]["area"] is None
        assert min(known) <= record.scans[task]["minutes"] <= max(known)


def test_with_few_timed_labels_the_order_stays_and_the_page_says_so(pool: TimedPool) -> None:
    pool.publish(1, *TIMED, *WAITING)
    for task in TIMED:
        pool.timed_label(task, 60.0 if task > 3 else None)
    record = pool.selector.rank(pool.now, pool.judged(*WAITING), number=2)
    [said] = [line for line in record.warnings if line.startswith("by_minutes")]
    assert f"{LEAST - 3} of {LEAST} labels" in said
    assert record.scans[WAITING[0]]["minutes"] is None
    pool.options(by_minutes=False)
    plain = pool.selector.rank(pool.now, pool.judged(*WAITING), number=2)
    assert record.order == plain.order
    assert "minutes" not in plain.scans[WAITING[0]]


def test_minutes_that_nothing_tells_are_ignored_and_the_page_says_so(pool: TimedPool) -> None:
    pool.publish(1, *TIMED, *WAITING, regions=2.0)
    for task in TIMED:
        pool.timed_label(task, 60.0 + 7 * (task * 7 % 11))
    record = pool.selector.rank(pool.now, pool.judged(*WAITING), number=2)
    assert record.minutes_r2 is not None
    assert record.minutes_r2 <= 0
    [said] = [line for line in record.warnings if line.startswith("by_minutes")]
    assert "does not tell its minutes" in said


def test_a_cold_start_says_nothing_of_minutes(pool: TimedPool) -> None:
    pool.options(cold_start_budget=30)
    record = ready(pool)
    assert record.phase == "cold-start"
    assert not [line for line in record.warnings if "by_minutes" in line]
    assert "min" not in record.reasons[0]
    assert len(record.before) == len(TIMED)


# -- a whole round --------------------------------------------------------------------------------


def test_a_round_records_what_its_model_draws(site: Site) -> None:
    site.entry["extra_params"] |= {"by_minutes": True}
    site.label(0, 1, seconds=30.0)
    site.refresh()
    first = records.read_queue(site.services.files(site.number), 1)
    assert first is not None
    assert first.phase == "acquisition"
    assert all(terms["area"] is not None for terms in first.scans.values())
    site.label(2, seconds=30.0)
    site.refresh()
    second = records.read_queue(site.services.files(site.number), 2)
    assert second is not None
    [seen] = second.before.values()
    terms = first.scans[site.tasks[2]]
    assert seen == [terms["entropy"], terms["area"], terms["regions"]]
    assert any(line.startswith("by_minutes: the order ignores") for line in site.project.warnings)
