from __future__ import annotations

import gc
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from backend.errors import ConfigError, StorageError
from backend.settings import Settings
from backend.storage.database import sqlite_path
from backend.storage.projects import LONGEST_BACKOFF_SECONDS, MOST_SIGHTINGS, SETTLE_SECONDS
from backend.storage.records import REVIEW, ModelQuality, ReviewedScan, ReviewRecord, RoundRecord
from backend.storage.scans import is_retried
from backend.storage.store import Store, open_store
from backend.storage.tables import WIPED, DraftScore, Meta, Model, Publication
from tests.backend.conftest import Clock, the

pytestmark = pytest.mark.databases


def task(number: int, url: str = "a", **values: object) -> dict[str, object]:
    return {"id": number, "url": url, "group": "", "updated_at": "1", "is_labeled": False} | values


def annotation(number: int, task_id: int) -> dict[str, object]:
    return {
        "id": number,
        "task_id": task_id,
        "updated_at": "1",
        "created_at": "1",
        "cancelled": False,
        "ground_truth": False,
        "result": "[]",
        "problem": "",
    }


def version(name: str, number: int = 1, **values: object) -> Publication:
    return Publication(
        **{"project_id": 1, "name": name, "round": number, "attempt": 1, "created_at": number}
        | values
    )


# -- the installation -----------------------------------------------------------------------------


def test_the_installation_keeps_its_name_for_as_long_as_its_database(
    store: Store, settings: Settings
) -> None:
    again = open_store(settings.database)
    again.create()
    assert again.installation.id == store.installation.id
    assert len(store.installation.id) == 8
    again.close()


def test_a_store_that_is_no_longer_used_leaves_no_connection_open(settings: Settings) -> None:
    used = open_store(settings.database)
    used.create()
    engine = used.database.engine
    assert engine.pool.checkedin()  # type: ignore[attr-defined]
    del used
    gc.collect()
    assert not engine.pool.checkedin()  # type: ignore[attr-defined]


@pytest.mark.parametrize("attempt", range(5))
def test_processes_that_start_at_once_agree_on_one_installation(
    tmp_path: Path, attempt: int
) -> None:
    url, gate = f"sqlite:///{tmp_path / f'{attempt}.sqlite'}", threading.Barrier(4)
    stores = [open_store(url, busy_ms=5_000) for _ in range(4)]

    def create(own: Store) -> None:
        gate.wait()
        own.create()

    threads = [threading.Thread(target=create, args=(each,)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.installation.id for each in stores}) == 1
    for each in stores:
        each.close()


def test_a_database_of_another_schema_is_refused(store: Store) -> None:
    with store.session() as session:
        session.get_one(Meta, "schema").value = "0"
    with pytest.raises(ConfigError, match="schema 0") as caught:
        store.create()
    assert caught.value.fix


@pytest.mark.parametrize("url", ["no address", "nodatabase://host/name"])
def test_a_database_url_that_cannot_be_used_is_said_without_it(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL") as caught:
        open_store(url)
    assert url not in str(caught.value)


def test_an_error_of_the_database_says_nothing_of_its_content(store: Store) -> None:
    with pytest.raises(StorageError) as caught, store.session() as session:
        session.execute(sa.text("insert into nowhere values (:url)"), {"url": "mrs-smith.png"})
    assert "smith" not in str(caught.value)
    assert "smith" not in str(caught.value.__cause__)


def test_only_sqlite_has_a_path() -> None:
    assert sqlite_path("sqlite:///data/firstlight.sqlite") == Path("data/firstlight.sqlite")
    assert sqlite_path("postgresql://db/firstlight") is None


# -- counters -------------------------------------------------------------------------------------


def test_a_hint_makes_a_project_due_until_it_is_done(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    clock.advance(SETTLE_SECONDS)
    assert store.projects.due() == [1]
    store.projects.update(1, completed=1)
    assert store.projects.due() == []


def test_a_project_heard_of_for_the_first_time_waits_a_moment(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    assert store.projects.due() == []
    clock.advance(SETTLE_SECONDS)
    assert store.projects.due() == [1]


def test_a_hint_during_a_refresh_makes_another_one(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    clock.advance(SETTLE_SECONDS)
    wanted = the(store, 1).requested  # as a refresh reads it when it begins
    store.projects.request_refresh(1)
    store.projects.update(1, completed=wanted)
    assert store.projects.due() == [1]


def test_no_hint_is_lost_when_many_come_at_once(store: Store, settings: Settings) -> None:
    stores = [open_store(settings.database, busy_ms=5_000) for _ in range(4)]
    store.projects.request_refresh(1)

    def request(own: Store) -> None:
        for _ in range(10):
            own.projects.request_refresh(1)

    threads = [threading.Thread(target=request, args=(each,)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert the(store, 1).requested == 41
    for each in stores:
        each.close()


def test_a_hint_ends_a_long_wait_after_a_failure(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    store.projects.update(1, failures=5, not_before=clock() + 300)
    store.projects.request_refresh(1)
    clock.advance(SETTLE_SECONDS)
    assert store.projects.due() == [1]


def test_a_hint_does_not_cut_the_time_between_rounds_short(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    store.projects.update(1, failures=0, not_before=clock() + 300)
    store.projects.request_refresh(1)
    clock.advance(SETTLE_SECONDS)
    assert store.projects.due() == []


def test_a_full_hint_is_remembered_by_later_ones(store: Store) -> None:
    store.projects.request_refresh(1)
    store.projects.update(1, full_sync=False)
    store.projects.request_refresh(1, full=True)
    store.projects.request_refresh(1)
    assert the(store, 1).full_sync


def test_a_project_that_is_gone_is_not_due_until_it_is_connected_again(
    store: Store, clock: Clock
) -> None:
    store.projects.request_refresh(1)
    clock.advance(SETTLE_SECONDS)
    store.projects.update(1, disconnected=True)
    assert store.projects.due() == []
    store.projects.request_refresh(1, full=True)
    assert (the(store, 1).disconnected, the(store, 1).requested) == (True, 1), (
        "an event is no connection"
    )
    store.projects.request_refresh(1, connected=True)
    assert store.projects.due() == [], "Label Studio has yet to save its entry"
    clock.advance(SETTLE_SECONDS)
    assert store.projects.due() == [1]


@pytest.mark.parametrize(
    "moved",
    [
        {"requested": 2},
        {"completed": 1},
        {"failures": 1},
        {"live_version": "v2"},
        {"disconnected": True},
        {"vanished_at": 1.0},
    ],
    ids=lambda moved: next(iter(moved)),
)
def test_what_was_seen_of_a_project_is_not_written_once_it_has_moved_on(
    store: Store, moved: dict[str, Any]
) -> None:
    store.projects.request_refresh(1)
    before = the(store, 1)
    assert store.projects.update_unless_moved(before, problem="seen")
    store.projects.update(1, **moved)
    assert not store.projects.update_unless_moved(before, problem="seen too late")
    assert the(store, 1).problem == "seen"


def test_who_has_waited_longest_comes_first(store: Store, clock: Clock) -> None:
    for project_id, started in ((1, 30.0), (2, 10.0), (3, 20.0)):
        store.projects.request_refresh(project_id)
        store.projects.update(project_id, started_at=started)
    clock.advance(SETTLE_SECONDS)
    assert store.projects.due() == [2, 3, 1]


# -- tasks and annotations ------------------------------------------------------------------------


def test_a_changed_address_forgets_the_embedding_and_the_problem(store: Store) -> None:
    store.scans.save(1, [task(5), task(6)])
    store.embeddings.save(1, "pixels", "a.npy", [5, 6])
    store.scans.update(1, 5, height=8, width=8, pixels="x", problem="broken", retry_at=9.0)
    store.scans.save(1, [task(5, "b"), task(6, updated_at="2")])
    changed = store.scans.all(1)[0]
    assert (changed.url, changed.height, changed.pixels, changed.problem) == ("b", 0, "", "")
    assert changed.retry_at == 0
    assert set(store.embeddings.all(1, "pixels")) == {6}


def test_scans_without_an_embedding_of_this_encoder_and_unreadable_ones_are_found(
    store: Store,
) -> None:
    for project_id in (1, 2):
        store.scans.save(project_id, [task(number) for number in (5, 6, 7)])
    store.embeddings.save(1, "pixels", "a.npy", [5, 6])
    store.embeddings.save(1, "other", "b.npy", [7])
    store.scans.update(1, 6, problem="broken")
    assert [found.id for found in store.scans.unembedded(1, "pixels")] == [6, 7]
    assert [found.id for found in store.scans.unembedded(1, "other")] == [5, 6]
    assert [found.id for found in store.scans.unembedded(2, "pixels")] == [5, 6, 7]


def test_a_listed_scan_has_the_values_of_its_row(store: Store) -> None:
    store.scans.save(1, [task(6, group="p1"), task(5, is_labeled=True)])
    store.scans.update(1, 5, height=8, width=9, pixels="x", problem="broken")
    for listed, row in zip(store.scans.listed(1), store.scans.all(1), strict=True):
        assert listed == tuple(getattr(row, name) for name in listed._fields)


def test_forgotten_tasks_take_all_that_is_known_of_them_along(store: Store) -> None:
    for project_id in (1, 2):
        store.scans.save(project_id, [task(5), task(6)])
        store.labels.replace(project_id, [5, 6], [annotation(9, 5)])
        store.embeddings.save(project_id, "pixels", "a.npy", [5, 6])
        store.labels.save_splits(project_id, {5: True})
    store.scans.keep_only(1, [6])
    assert [found.id for found in store.scans.all(1)] == [6]
    assert store.labels.annotations(1) == []
    assert set(store.embeddings.all(1, "pixels")) == {6}
    assert store.labels.splits(1) == {}
    assert [found.id for found in store.scans.all(2)] == [5, 6]
    assert len(store.labels.annotations(2)) == 1


@pytest.mark.seconds
def test_more_tasks_are_forgotten_than_fit_into_one_statement(store: Store) -> None:
    store.scans.save(1, [task(number) for number in range(1_200)])
    store.scans.keep_only(1, [0])
    assert [found.id for found in store.scans.all(1)] == [0]


def test_annotations_of_other_tasks_stay_when_some_are_replaced(store: Store) -> None:
    store.labels.replace(1, [5, 6], [annotation(9, 5), annotation(10, 6)])
    store.labels.replace(1, [5], [annotation(11, 5)])
    assert [found.id for found in store.labels.annotations(1)] == [10, 11]
    store.labels.replace(1, [5, 6], [])
    assert store.labels.annotations(1) == []


# -- embeddings, splits, scores, models -----------------------------------------------------------


def test_embeddings_of_two_encoders_lie_side_by_side(store: Store) -> None:
    store.scans.save(1, [task(5), task(6)])
    store.embeddings.save(1, "pixels", "a.npy", [5, 6])
    store.embeddings.save(1, "other", "b.npy", [6])
    found = store.embeddings.all(1, "pixels")
    assert {number: (each.chunk, each.row) for number, each in found.items()} == {
        5: ("a.npy", 0),
        6: ("a.npy", 1),
    }


def test_draft_scores_come_in_the_order_of_labelling(store: Store) -> None:
    for task_id, created in ((5, "2027-01-02"), (6, "2027-01-01")):
        store.labels.save_draft_score(
            DraftScore(project_id=1, task_id=task_id, version="v", created_at=created, dice=0.5)
        )
    assert [score.task_id for score in store.labels.draft_scores(1)] == [6, 5]


def test_a_model_saved_again_replaces_what_was_known(store: Store) -> None:
    store.publications.save_model(Model(project_id=1, key="k", labels=2, created_at=1.0))
    store.publications.save_model(
        Model(project_id=1, key="k", labels=2, created_at=1.0, accepted=False)
    )
    found = store.publications.model(1, "k")
    assert found is not None
    assert not found.accepted


# -- versions and rounds --------------------------------------------------------------------------


def test_one_version_is_live_and_the_one_before_is_previous(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    for number, name in enumerate(("a", "b"), start=1):
        store.publications.save(version(name, number))
        clock.advance(1)
        store.publications.go_live(1, name, fingerprint=f"of {name}")
    states = {found.name: found.state for found in store.publications.all(1)}
    assert states == {"a": "previous", "b": "live"}
    assert (the(store, 1).live_version, the(store, 1).fingerprint) == ("b", "of b")
    found = store.publications.get(1, "b")
    assert found is not None
    assert found.live_at == clock()


def test_an_abandoned_version_stays_abandoned_when_another_goes_live(store: Store) -> None:
    store.projects.request_refresh(1)
    store.publications.save(version("a", state="abandoned"))
    store.publications.save(version("a.2", attempt=2))
    store.publications.go_live(1, "a.2")
    assert {v.name: v.state for v in store.publications.all(1)} == {"a": "abandoned", "a.2": "live"}


def test_a_repeated_workflow_finds_its_own_round(store: Store) -> None:
    first = store.rounds.of_workflow(1, "workflow-a")
    assert store.rounds.of_workflow(1, "workflow-a").number == first.number == 1
    assert store.rounds.of_workflow(1, "workflow-b").number == 2
    assert store.rounds.of_workflow(2, "workflow-c").number == 1


def test_a_round_that_was_cut_off_ends_when_the_next_one_begins(store: Store) -> None:
    store.rounds.of_workflow(1, "lost")
    store.rounds.of_workflow(2, "of another project")
    store.rounds.of_workflow(1, "next")
    lost, begun = store.rounds.all(1)
    assert lost.ended_at
    assert "cut off" in (lost.record.error or "")
    assert not begun.ended_at
    assert not store.rounds.all(2)[0].ended_at


def test_a_round_keeps_its_times_and_its_end(store: Store, clock: Clock) -> None:
    store.rounds.of_workflow(1, "workflow-a")
    store.rounds.add_seconds(1, 1, "train", 3.14159)
    store.rounds.add_seconds(1, 1, "publish", 1)
    clock.advance(5)
    store.rounds.close(1, 1, "v")
    [found] = store.rounds.all(1)
    assert found.record == RoundRecord(seconds={"train": 3.14, "publish": 1}, version="v")
    assert found.ended_at == clock()


def test_the_wait_for_a_scan_that_cannot_be_read_doubles_up_to_an_hour(
    store: Store, clock: Clock
) -> None:
    store.scans.save(1, [task(5)])
    waits = []
    for _ in range(10):
        store.scans.mark_unreadable(1, 5, "broken")
        [found] = store.scans.some(1, [5])
        waits.append(found.retry_at - clock())
    assert waits[:4] == [60, 120, 240, 480]
    assert waits[-1] == 3_600
    store.scans.update(1, 5, problem="")  # it was read
    store.scans.mark_unreadable(1, 5, "broken anew")
    [found] = store.scans.some(1, [5])
    assert found.retry_at - clock() == 60


def test_a_workers_death_counts_against_the_scans_that_it_was_reading(store: Store) -> None:
    store.scans.save(1, [task(number) for number in (1, 2, 3)])
    store.scans.save(2, [task(9)])
    store.scans.update_reading(1, [1, 2], read_by="gone")
    store.scans.update_reading(1, [3], read_by="lives")
    store.scans.update_reading(2, [9], read_by="stopped")
    store.scans.stop_reading("stopped")
    assert store.scans.count_deaths({"gone", "stopped"}) == {1: [1, 2]}
    assert store.scans.count_deaths({"gone", "stopped"}) == {}, "each death counts once"
    found = store.scans.all(1) + store.scans.all(2)
    assert [(one.deaths, one.read_by) for one in found] == [(1, ""), (1, ""), (0, "lives"), (0, "")]


def test_a_changed_address_forgets_the_deaths_too(store: Store) -> None:
    store.scans.save(1, [task(1, url="a")])
    store.scans.update_reading(1, [1], deaths=2)
    store.scans.save(1, [task(1, url="b")])
    assert store.scans.all(1)[0].deaths == 0


# -- clocks that were set, projects that are away --------------------------------------------------


def test_a_pause_that_a_clock_ahead_wrote_down_holds_nothing_up(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    clock.advance(8 * 3600)  # the clock is ahead during one round
    store.projects.update(1, started_at=clock(), not_before=clock() + 20)
    clock.advance(-8 * 3600)
    assert store.projects.due() == [1]
    store.projects.update(1, started_at=0.0, not_before=clock() + 8 * 3600, failures=1)
    assert store.projects.due() == [1], "no pause after a failure is as long as this one"
    store.projects.update(1, not_before=clock() + LONGEST_BACKOFF_SECONDS)
    assert store.projects.due() == []


def test_a_long_pause_between_rounds_that_was_chosen_is_kept(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    long = {"min_seconds_between_rounds": 86_400}
    store.projects.update(1, started_at=clock(), not_before=clock() + 86_400, options=long)
    clock.advance(1)
    assert store.projects.due() == []
    store.projects.update(1, options={})
    assert store.projects.due() == [1], "no pause is that long unless it was chosen"


def test_a_scan_whose_next_try_lies_beyond_every_pause_is_tried(store: Store, clock: Clock) -> None:
    store.scans.save(1, [task(5)])
    store.scans.mark_unreadable(1, 5, "broken")
    [found] = store.scans.some(1, [5])
    assert not is_retried(found, clock())
    assert is_retried(found, clock() + found.pause)
    assert is_retried(found, clock() - 86_400)


def test_a_vanished_project_is_not_refreshed_until_news_of_it(store: Store, clock: Clock) -> None:
    store.projects.request_refresh(1)
    clock.advance(SETTLE_SECONDS)
    assert store.projects.vanish(the(store, 1))
    assert store.projects.due() == []
    assert "disconnect 1" in the(store, 1).fix
    store.projects.request_refresh(1)
    clock.advance(SETTLE_SECONDS)
    assert (store.projects.due(), the(store, 1).vanished_at) == ([1], 0.0)


def test_a_flood_of_projects_that_nobody_has_leaves_few_rows(store: Store) -> None:
    for number in range(1, 2 * MOST_SIGHTINGS):
        store.projects.sight(number)
    assert len(store.projects.sightings()) == MOST_SIGHTINGS
    assert store.projects.all() == []
    store.projects.drop_sighting(1)
    assert len(store.projects.sightings()) == MOST_SIGHTINGS - 1


# -- what was deleted -----------------------------------------------------------------------------


def names_in_files(folder: Path, name: bytes) -> list[str]:
    return [path.name for path in folder.glob("*.sqlite*") if name in path.read_bytes()]


def test_deleted_rows_are_overwritten_in_the_file_and_its_log(tmp_path: Path) -> None:
    """With many rows, so that pages are split, joined and freed."""
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    store.create()
    store.scans.save(1, [task(number, f"scan-of-curie-{number:04d}") for number in range(1_500)])
    store.labels.replace(1, [7], [annotation(9, 7) | {"result": "'mask of curie'" * 2_000}])
    store.scans.keep_only(1, [number for number in range(1_500) if number % 3])
    assert names_in_files(tmp_path, b"mask of curie")
    assert store.erasures.purge_log()
    assert (tmp_path / "a.sqlite-wal").stat().st_size == 0
    assert names_in_files(tmp_path, b"scan-of-curie-0004") == ["a.sqlite"]
    gone = [number for number in range(0, 1_500, 3)]
    held = (tmp_path / "a.sqlite").read_bytes()
    assert [number for number in gone if b"scan-of-curie-%04d" % number in held] == []
    store.scans.keep_only(1, [])
    assert store.erasures.purge_log()
    assert names_in_files(tmp_path, b"curie") == []
    store.close()


def test_a_log_that_somebody_reads_or_writes_is_left_for_another_time(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    store.create()
    for begin in ("BEGIN", "BEGIN IMMEDIATE"):
        with closing(sqlite3.connect(tmp_path / "a.sqlite")) as other:
            other.execute(begin)
            other.execute("SELECT * FROM meta").fetchall()
            store.projects.request_refresh(1) if begin == "BEGIN" else None
            assert not store.erasures.purge_log()
            other.rollback()
            assert store.erasures.purge_log()
    store.close()


def test_what_former_releases_deleted_is_overwritten_the_first_time(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    store.create()
    store.scans.save(1, [task(number, f"scan-of-curie-{number}") for number in range(100)])
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as former:
        former.execute("PRAGMA secure_delete = OFF")
        former.execute("DELETE FROM tasks")
        former.execute("DELETE FROM meta WHERE key = ?", (WIPED,))
        former.commit()
    assert store.erasures.purge_log()
    assert names_in_files(tmp_path, b"curie") == []
    store.close()


def test_another_database_cares_for_its_own_files() -> None:
    store = open_store("sqlite://")
    store.create()
    assert store.erasures.purge_log()
    store.close()


# -- what is asked of records without reading them ------------------------------------------------


def test_measured_models_of_rounds_are_found_and_so_is_the_newest_comparison(store: Store) -> None:
    dice = {"dice": {1: 0.5}}
    qualities = {
        "unmeasured": ModelQuality(),
        "nothing held out": ModelQuality(held_out={"dice": {}}),
        "measured": ModelQuality(held_out=dice),
        "not refined": ModelQuality(held_out=dice, refined_from="", best_recipe="quick"),
        "refined": ModelQuality(held_out=dice, refined_from="measured", best_recipe=""),
    }
    for number, (key, quality) in enumerate(qualities.items()):
        row = Model(project_id=1, key=key, labels=number, created_at=number, classes=["Lung"])
        row.quality = quality
        row.trained_on = [number]
        store.publications.save_model(row)
    measured = store.publications.measured(1)
    assert measured == [("measured", 2, ["Lung"]), ("not refined", 3, ["Lung"])]
    found = store.publications.some_models(1, ["not refined", "measured"])
    assert [model.quality for model in found] == [qualities["measured"], qualities["not refined"]]
    newest = store.publications.newest_comparison(1)
    assert newest is not None
    assert newest.key == "not refined"
    assert store.publications.trained_on(1)["refined"] == [4]


def test_a_deleted_scan_leaves_the_review_in_the_same_transaction(store: Store) -> None:
    store.projects.request_refresh(1)
    store.scans.save(1, [task(1), task(2)])
    scans = [
        ReviewedScan(
            task=number,
            label="l",
            annotations=[number],
            score=0.5,
            share=0.5,
            reason="both",
            about="Lung",
            file="f",
        )
        for number in (1, 2)
    ]
    review = ReviewRecord(scans=scans, shown=[1, 2])
    store.studies.save(1, REVIEW, "v", review.written())
    store.scans.keep_only(1, [2])
    left = ReviewRecord.model_validate(store.studies.record(1, REVIEW))
    assert left == review.changed(scans=scans[1:], shown=[2])
    assert store.studies.digest(1, REVIEW) == "v"
