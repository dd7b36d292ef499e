from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from backend.errors import (
    LabelStudioError,
    NotFound,
    StorageError,
    Unreachable,
    UnsupportedLabelConfig,
)
from backend.label_studio.client import LabelStudio
from backend.options import ProjectOptions
from backend.rounds import sync
from backend.storage import ledger
from backend.storage.store import Store
from backend.storage.tables import Annotation
from tests.backend.conftest import Clock, drawn, the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

pytestmark = pytest.mark.databases


class Side:
    """One project on both sides: what Label Studio holds, and our copy."""

    def __init__(self, studio: LabelStudio, store: Store, fake: FakeLabelStudio, number: int):
        self.studio, self.store, self.fake, self.number = studio, store, fake, number

    def sync(self) -> ProjectOptions:
        return sync.sync(self.studio, self.store, the(self.store, self.number))

    def read(self) -> ledger.Ledger:
        return ledger.read(self.store, self.number)

    def look(self) -> dict[str, Any]:
        return sync.look(self.studio, self.store, the(self.store, self.number))

    def tasks(self, count: int) -> list[int]:
        return [self.fake.add_task(self.number) for _ in range(count)]

    def whole(self) -> tuple[Any, ...]:
        """Return the whole copy, as plain values."""
        tasks = [(t.id, t.url, t.group, t.is_labeled) for t in self.store.scans.all(self.number)]
        found = self.store.labels.annotations(self.number)
        drawn_in = self.store.labels.results(self.number, [a.id for a in found])
        return tasks, [
            (a.id, a.task_id, a.updated_at, a.cancelled, a.ground_truth, result)
            for a, result in zip(found, drawn_in, strict=True)
        ]


@pytest.fixture
def side(studio: LabelStudio, store: Store, fake: FakeLabelStudio, project_id: int) -> Side:
    return Side(studio, store, fake, project_id)


# -- what is copied -------------------------------------------------------------------------------


def test_the_first_sync_copies_tasks_and_labels_older_than_the_connection(side: Side) -> None:
    first, second, third = side.tasks(3)
    side.fake.annotate(second, drawn())
    side.sync()
    now = side.read()
    assert [task.id for task in now.tasks] == [first, second, third]
    assert list(now.usable) == [second]
    assert now.open == {first, third}
    assert the(side.store, side.number).title == "Lungs"


def test_an_incremental_sync_agrees_with_a_full_one(side: Side) -> None:
    tasks = side.tasks(6)
    annotations = [side.fake.annotate(task, drawn()) for task in tasks[:4]]
    side.sync()
    side.fake.change_annotation(annotations[0], result=drawn(slice(2, 3)))
    side.fake.delete_annotation(annotations[1])
    side.fake.annotate(tasks[4], skip=True)
    side.fake.annotate(tasks[5], drawn(), ground_truth=True)
    side.fake.delete_task(tasks[2])
    side.fake.change_data(tasks[3], image="/data/upload/9/other.png")
    side.fake.add_task(side.number)
    side.sync()
    incremental = side.whole()
    side.store.projects.update(side.number, full_sync=True)
    side.sync()
    assert incremental == side.whole()
    assert len(incremental[0]) == 6
    assert len(incremental[1]) == 4


@pytest.mark.parametrize("asked", [False, True], ids=["an event", "a full sync asked for"])
def test_after_a_full_sync_another_is_due_only_if_it_was_asked_for_meanwhile(
    side: Side, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    side.tasks(2)
    tasks = side.studio.tasks

    def meanwhile(*given: Any, **named: Any) -> Any:
        side.store.projects.request_refresh(side.number, full=asked)
        return tasks(*given, **named)

    monkeypatch.setattr(side.studio, "tasks", meanwhile)
    side.sync()
    assert the(side.store, side.number).full_sync == asked


def test_a_quiet_sync_asks_only_for_what_may_have_changed(side: Side) -> None:
    tasks = side.tasks(5)
    for task in tasks:
        side.fake.annotate(task, drawn())
    side.sync()
    read = side.fake.calls("GET", "tasks/whole")
    side.sync()
    assert side.fake.calls("GET", "tasks/whole") == read
    side.fake.annotate(tasks[0], drawn())
    side.sync()
    assert side.fake.calls("GET", "tasks/whole") == read + 1


def test_a_deleted_task_vanishes_though_nothing_else_changed(side: Side) -> None:
    first, second = side.tasks(2)
    side.fake.annotate(first, drawn())
    side.sync()
    side.fake.delete_task(first)
    side.sync()
    assert [task.id for task in side.read().tasks] == [second]
    assert side.read().usable == {}


def test_a_deleted_annotation_gives_the_scan_back_to_the_pool(side: Side) -> None:
    [task] = side.tasks(1)
    annotation = side.fake.annotate(task, drawn())
    side.sync()
    side.fake.delete_annotation(annotation)
    side.sync()
    assert side.read().usable == {}
    assert side.read().open == {task}


def test_counts_that_differ_lead_to_a_full_read(
    side: Side, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = side.tasks(2)
    side.fake.annotate(first, drawn())
    clock.advance(3600)
    side.fake.change_data(second, note="newer")
    side.sync()
    # As if a change had been lost: Label Studio will not list this task as changed.
    side.store.labels.replace(side.number, [first], [])
    with caplog.at_level(logging.INFO):
        side.sync()
    assert list(side.read().usable) == [first]
    assert "listing all tasks" in caplog.text
    assert side.read().open == {second}


def test_everything_is_read_again_after_six_hours(side: Side, clock: Clock) -> None:
    [task] = side.tasks(1)
    side.fake.annotate(task, drawn())
    side.sync()
    with side.store.session() as session:
        session.execute(sa.update(Annotation).values(problem="spoilt by something unforeseen"))
    clock.advance(sync.FULL_SYNC_SECONDS - 1)
    side.sync()
    assert side.read().usable == {}
    clock.advance(1)
    side.sync()
    assert list(side.read().usable) == [task]


def test_a_changed_address_forgets_the_embedding(side: Side) -> None:
    first, second = side.tasks(2)
    side.sync()
    side.store.embeddings.save(side.number, "pixels", "a.npy", [first, second])
    side.fake.change_data(first, image="/data/upload/9/other.png")
    side.sync()
    assert set(side.store.embeddings.all(side.number, "pixels")) == {second}


@pytest.mark.parametrize(
    "broken", ["tasks/whole", r"/api/tasks/?$", r"/api/projects/\d+$", "/api/ml"]
)
def test_a_sync_cut_short_loses_no_change(side: Side, broken: str) -> None:
    first, second = side.tasks(2)
    annotation = side.fake.annotate(first, drawn())
    side.sync()
    side.fake.change_annotation(annotation, result=drawn(slice(0, 2)))
    side.fake.annotate(second, drawn())
    side.fake.fail("GET", broken, httpx.ReadTimeout, times=9)
    with pytest.raises(Unreachable):
        side.sync()
    side.fake.heal()
    side.sync()
    incremental = side.whole()
    side.store.projects.update(side.number, full_sync=True)
    side.sync()
    assert incremental == side.whole()


def test_a_redrawn_label_is_read_again_after_a_sync_that_was_cut_short(side: Side) -> None:
    [task] = side.tasks(1)
    annotation = side.fake.annotate(task, drawn())
    side.sync()
    before = side.read().label_keys
    side.fake.change_annotation(annotation, result=drawn(slice(0, 2)))
    side.fake.fail("GET", "tasks/whole", 503, times=9)
    with pytest.raises(Unreachable):
        side.sync()
    side.fake.heal()
    side.sync()
    assert side.read().label_keys != before


# -- what counts ----------------------------------------------------------------------------------


def test_a_skip_never_counts_whatever_it_holds(side: Side) -> None:
    [task] = side.tasks(1)
    side.fake.annotate(task, drawn(), skip=True)
    side.sync()
    now = side.read()
    assert now.usable == {}
    assert now.skipped == now.open == {task}


def test_a_scan_that_one_skipped_and_another_drew_counts_as_drawn(side: Side) -> None:
    [task] = side.tasks(1)
    side.fake.annotate(task, skip=True)
    side.fake.annotate(task, drawn())
    side.sync()
    assert list(side.read().usable) == [task]
    assert side.read().skipped == frozenset()


def test_submitted_without_regions_is_a_label(side: Side) -> None:
    [task] = side.tasks(1)
    side.fake.annotate(task, [])
    side.sync()
    assert list(side.read().usable) == [task]


def test_a_result_of_null_is_an_empty_label(side: Side) -> None:
    [task] = side.tasks(1)
    side.fake.annotate(task, None)
    side.sync()
    [annotation] = side.read().usable[task]
    assert side.store.labels.results(side.number, [annotation.id]) == [[]]


@pytest.mark.parametrize(
    "result",
    [drawn(label="Heart"), [{**drawn()[0], "value": {"format": "rle", "rle": [1, 2, 3]}}], ["x"]],
    ids=["an unknown label", "a broken mask", "no object"],
)
def test_an_annotation_that_cannot_be_decoded_is_named_and_left_out(
    side: Side, result: list[Any]
) -> None:
    first, second = side.tasks(2)
    side.fake.annotate(first, result)
    side.fake.annotate(second, drawn())
    side.sync()
    assert list(side.read().usable) == [second]
    assert [bool(found.problem) for found in side.store.labels.annotations(side.number)] == [
        True,
        False,
    ]


def test_a_label_on_a_scan_that_cannot_be_read_does_not_count(side: Side) -> None:
    [task] = side.tasks(1)
    side.fake.annotate(task, drawn())
    side.sync()
    side.store.scans.update(side.number, task, problem="broken")
    assert side.read().usable == {}


def test_scans_count_in_the_order_of_their_first_label(side: Side) -> None:
    first, second, third = side.tasks(3)
    for task in (third, first, second, third):
        side.fake.annotate(task, drawn())
    side.sync()
    assert list(side.read().usable) == [third, first, second]
    assert len(side.read().usable[third]) == 2


def test_the_group_is_the_named_part_of_the_data(side: Side) -> None:
    [entry] = side.fake.entries.values()
    entry["extra_params"] = {"group_by": "patient"}
    side.fake.add_task(side.number, patient="P1")
    side.fake.add_task(side.number)
    side.fake.add_task(side.number, patient=None)
    side.sync()
    assert [task.group for task in side.read().tasks] == ["P1", "", ""]


def test_the_source_is_the_named_part_of_the_data_and_a_changed_key_reads_it_again(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    [entry] = side.fake.entries.values()
    side.fake.add_task(side.number, clinic="North", scanner="A7")
    side.fake.add_task(side.number, clinic=None)
    side.sync()
    assert [task.source for task in side.read().tasks] == ["", ""]
    entry["extra_params"] = {"source_by": "clinic"}
    side.sync()
    first, second = side.read().tasks
    assert side.read().sources == {first.id: "North"}
    assert second.source == ""
    entry["extra_params"] = {"source_by": "scanner"}
    side.sync()
    assert side.read().sources == {first.id: "A7"}
    assert "North" not in caplog.text
    assert "A7" not in caplog.text


def test_the_place_of_a_slice_is_the_named_number_of_the_data(side: Side) -> None:
    [entry] = side.fake.entries.values()
    for place in (4, "-2.5", 0, None, "apex", "nan", [3], 10**400):
        side.fake.add_task(side.number, slice=place)
    side.sync()
    assert side.read().places == {}
    entry["extra_params"] = {"slice_by": "slice"}
    side.sync()
    assert list(side.read().places.values()) == [4, -2.5, 0]


# -- label config and options ---------------------------------------------------------------------


def test_a_null_character_in_the_data_is_left_out(side: Side) -> None:
    [entry] = side.fake.entries.values()
    entry["extra_params"] = {"group_by": "patient"}
    side.fake.add_task(side.number, patient="no\0body")
    side.sync()
    [found] = side.store.scans.all(side.number)
    assert found.group == "nobody"


def test_a_changed_label_config_is_read_against_every_label_again(side: Side) -> None:
    [task] = side.tasks(1)
    side.fake.annotate(task, drawn())
    side.sync()
    side.fake.projects[side.number].label_config = CONFIG.replace("Lung", "Heart")
    side.sync()
    assert side.read().usable == {}
    side.fake.projects[side.number].label_config = CONFIG
    side.sync()
    assert list(side.read().usable) == [task]


@pytest.mark.seconds
def test_a_label_config_that_cannot_be_served_is_said(side: Side) -> None:
    side.fake.projects[side.number].label_config = "<View><Text name='t' value='$t'/></View>"
    with pytest.raises(UnsupportedLabelConfig):
        side.sync()


def test_bad_options_keep_the_last_valid_ones_and_are_said(side: Side) -> None:
    [entry] = side.fake.entries.values()
    entry["extra_params"] = {"alpha": 0.9}
    assert side.sync().alpha == 0.9
    entry["extra_params"] = {"alpha": 7}
    assert side.sync().alpha == 0.9
    assert "alpha" in the(side.store, side.number).options_problem
    entry["extra_params"] = '{"alpha": 0.1}'
    assert side.sync().alpha == 0.1
    assert the(side.store, side.number).options_problem == ""


def test_a_project_of_an_earlier_release_keeps_its_method_until_one_is_named(side: Side) -> None:
    [entry] = side.fake.entries.values()
    side.store.projects.update(side.number, first_method="firstlight-1")
    entry["extra_params"] = {"alpha": 0.9}
    assert (side.sync().cold_start, side.sync().projection) == ("medoids", "tsne")
    entry["extra_params"] = {"method": "firstlight"}
    assert side.sync().cold_start == "tempered"


def test_paused_is_an_option_like_others(side: Side) -> None:
    [entry] = side.fake.entries.values()
    entry["extra_params"] = {"paused": True}
    assert side.sync().paused
    entry["extra_params"] = None
    assert not side.sync().paused


def test_without_an_entry_of_ours_nothing_is_touched(side: Side) -> None:
    side.tasks(1)
    side.fake.entries.clear()
    with pytest.raises(NotFound):
        side.sync()
    assert side.read().tasks == []
    assert the(side.store, side.number).full_sync


# -- what the timer compares ----------------------------------------------------------------------


def test_after_a_sync_a_look_sees_nothing_new(side: Side) -> None:
    side.fake.annotate(side.tasks(2)[0], drawn())
    side.sync()
    assert side.look() == the(side.store, side.number).seen


def test_a_look_reads_no_task_but_the_newest(side: Side) -> None:
    side.tasks(3)
    side.sync()
    before = len(side.fake.requests)
    side.look()
    paths = [path for _, path in side.fake.requests[before:]]
    assert paths == ["/api/projects/1", "/api/ml", "/api/tasks"]


def test_a_look_sees_every_kind_of_change(side: Side) -> None:
    tasks = side.tasks(4)
    annotation = side.fake.annotate(tasks[0], drawn())
    side.sync()
    fake, [entry] = side.fake, side.fake.entries.values()
    changes: list[Callable[[], object]] = [
        lambda: fake.add_task(side.number),
        lambda: fake.annotate(tasks[1], drawn()),
        lambda: fake.annotate(tasks[2], skip=True),
        lambda: fake.change_annotation(annotation, result=[]),
        lambda: fake.delete_annotation(annotation),
        lambda: fake.change_data(tasks[3], image="/data/other.png"),
        lambda: fake.delete_task(tasks[3]),
        lambda: entry.update(extra_params={"alpha": 0.5}),
        lambda: setattr(fake.projects[side.number], "label_config", CONFIG.replace("Lu", "Tu")),
    ]
    seen = [side.look()]
    for change in changes:
        change()
        seen.append(side.look())
    assert all(before != after for before, after in itertools.pairwise(seen))


def test_what_changes_during_a_sync_shows_up_as_a_difference(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = side.tasks(2)
    real = side.studio.tasks

    def late(project_id: int, **named: Any) -> Any:
        yield from real(project_id, **named)
        if not side.fake.projects[project_id].annotations:
            side.fake.annotate(first, drawn())

    monkeypatch.setattr(side.studio, "tasks", late)
    side.sync()
    assert side.read().usable == {}
    assert side.look() != the(side.store, side.number).seen
    side.sync()
    assert list(side.read().usable) == [first]


# -- Label Studio's times and ids ----------------------------------------------------------------


def ledger_is_label_studio(side: Side) -> bool:
    """Return whether the ledger holds the annotations of Label Studio, each on its task."""
    truth = side.fake.projects[side.number].annotations.values()
    known = side.store.labels.annotations(side.number)
    drawn_in = side.store.labels.results(side.number, [found.id for found in known])
    return sorted((a["id"], a["task"], a["updated_at"], str(a["result"])) for a in truth) == sorted(
        (found.id, found.task_id, found.updated_at, str(result))
        for found, result in zip(known, drawn_in, strict=True)
    )


def test_after_duplicates_were_removed_an_annotation_is_on_the_task_that_is_left(
    side: Side,
) -> None:
    kept, removed = side.tasks(2)
    side.fake.annotate(kept, drawn())
    side.fake.annotate(removed, drawn(slice(3, 4)))
    side.sync()
    side.store.labels.save_splits(side.number, {kept: True, removed: False})
    side.fake.remove_duplicate(kept, removed)
    side.sync()
    assert ledger_is_label_studio(side)
    assert len(side.read().usable[kept]) == 2
    assert side.store.labels.splits(side.number) == {kept: True}


def test_after_an_older_backup_was_restored_the_ledger_is_what_the_backup_says(
    side: Side, clock: Clock
) -> None:
    first, second, third = side.tasks(3)
    corrected = side.fake.annotate(first, drawn())
    backup = side.fake.backup()
    clock.advance(3600)
    side.fake.change_annotation(corrected, result=drawn(slice(2, 3)))
    lost = side.fake.annotate(second, drawn())
    side.sync()
    side.store.labels.save_splits(side.number, {first: True, second: False})
    side.fake.restore(backup)
    clock.advance(3600)
    assert side.fake.annotate(third, drawn(slice(5, 6))) == lost, "its id is given out again"
    side.sync()
    assert ledger_is_label_studio(side)
    assert side.store.labels.splits(side.number) == {first: True, second: False}


def test_a_change_under_a_clock_that_was_set_back_is_seen(side: Side, clock: Clock) -> None:
    first, second = side.tasks(2)
    annotation = side.fake.annotate(first, drawn())
    clock.advance(86_400)
    side.fake.annotate(second, drawn())
    side.sync()
    clock.advance(-86_400)
    side.sync()
    side.fake.change_annotation(annotation, result=drawn(slice(2, 3)))
    assert side.look() != the(side.store, side.number).seen, "the timer sees it"
    side.sync()
    assert ledger_is_label_studio(side)


def test_a_full_read_asks_for_few_masks_at_a_time_and_writes_nothing_that_is_known(
    side: Side, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(sync, "TASKS_WITH_MASKS", 2)
    for task in side.tasks(5):
        side.fake.annotate(task, drawn())
    side.sync()
    asked: list[int] = []
    real = side.studio.annotations

    def counted(project: int, tasks: Any) -> Any:
        asked.append(len(tasks))
        return real(project, tasks)

    monkeypatch.setattr(side.studio, "annotations", counted)
    written: list[str] = []
    sa.event.listen(
        side.store.engine,
        "before_cursor_execute",
        lambda *given: written.append(given[2]),
    )
    clock.advance(sync.FULL_SYNC_SECONDS)
    side.sync()
    assert asked == [2, 2, 1]
    assert not [sql for sql in written if "annotations" in sql and sql.startswith("INSERT")]
    assert not [sql for sql in written if sql.startswith(("INSERT INTO tasks", "UPDATE tasks"))]


def test_new_tasks_do_not_have_everything_listed(side: Side, clock: Clock) -> None:
    side.tasks(3)
    clock.advance(3600)
    last = side.fake.add_task(side.number)
    side.sync()
    clock.advance(3600)
    new = side.fake.add_task(side.number)
    listed: list[int] = []
    pages = side.studio.tasks

    def counted(*given: Any, **named: Any) -> Any:
        for page in pages(*given, **named):
            listed.extend(task["id"] for task in page)
            yield page

    side.studio.tasks = counted  # type: ignore[method-assign]
    side.sync()
    assert listed == [last, new]


def test_a_sync_cut_short_after_a_changed_label_config_reads_every_label_again(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "TASKS_WITH_MASKS", 2)
    for task in side.tasks(4):
        side.fake.annotate(task, drawn())
    side.sync()
    side.fake.projects[side.number].label_config = CONFIG.replace("Lung", "Heart")
    side.fake.fail("GET", "tasks/whole", 400, after=1)
    with pytest.raises(LabelStudioError):
        side.sync()
    assert len(side.read().usable) == 2, "those that were not read yet"
    side.sync()
    assert side.read().usable == {}


def test_a_short_list_of_tasks_has_nothing_forgotten(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = side.tasks(3)
    side.fake.annotate(tasks[0], drawn())
    side.sync()
    side.store.projects.update(side.number, full_sync=True)
    monkeypatch.setattr(side.studio, "tasks", lambda *_, **__: iter(()))
    with pytest.raises(Unreachable, match="lists 0 of the 3 tasks"):
        side.sync()
    assert [task.id for task in side.read().tasks] == tasks
    assert list(side.read().usable) == [tasks[0]]


def test_rows_that_contradict_each_other_are_no_matter_of_the_disk(side: Side) -> None:
    [task] = side.tasks(1)
    row = {"id": 1, "task_id": task, "updated_at": "", "created_at": "", "cancelled": False}
    rows = [{**row, "ground_truth": False, "result": "[]"}] * 2
    with pytest.raises(StorageError, match="contradict"):
        side.store.labels.replace(side.number, [task], rows)


def test_an_error_of_label_studio_leaves_the_sync(side: Side) -> None:
    side.fake.fail("GET", "/api/ml", 400)
    with pytest.raises(LabelStudioError):
        side.sync()
