"""What labels cost and how well people agree: from Label Studio's answers to the stored figures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from backend.rounds import sync
from backend.rounds.annotators import agreement
from backend.rounds.annotators.label_figures import judge_labels
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.services import Services
from backend.storage.records import LabelRecord
from backend.storage.tables import DraftScore
from backend.web.project_page.label_panels import minutes
from tests.backend.conftest import Clock, drawn, the
from tests.backend.fake_label_studio import FakeLabelStudio

pytestmark = pytest.mark.databases

ANN, BEN, CEM = 70, 12, 31  # users of Label Studio
SIZE = 16


class Project:
    """A project whose scans were read; what people submit is synced and judged."""

    def __init__(self, services: Services, fake: FakeLabelStudio, clock: Clock, number: int):
        self.services, self.fake, self.clock, self.number = services, fake, clock, number
        self.store = services.store
        self.options: dict[str, Any] = {}

    def scans(self, count: int) -> list[int]:
        tasks = [self.fake.add_task(self.number) for _ in range(count)]
        self.sync()
        for task in tasks:
            self.store.scans.update(self.number, task, height=SIZE, width=SIZE)
        return tasks

    def sync(self) -> None:
        [entry] = self.fake.entries.values()
        entry["extra_params"] = self.options
        sync.sync(self.services.studio, self.store, the(self.store, self.number))

    def figures(self) -> LabelRecord:
        self.sync()
        judge_labels(
            RoundContext.of(self.services, LoadedEncoders(self.services.settings), self.number)
        )
        return self.store.annotators.figures(self.number)

    def minutes(self) -> dict[str, Any]:
        found = self.figures().minutes
        assert found is not None
        return found

    def agreement(self) -> dict[str, Any]:
        found = self.figures().agreement
        assert found is not None
        return found


@pytest.fixture
def project(services: Services, fake: FakeLabelStudio, clock: Clock, project_id: int) -> Project:
    return Project(services, fake, clock, project_id)


def region(rows: slice, origin: str = "manual") -> list[dict[str, Any]]:
    return [{**one, "origin": origin} for one in drawn(rows, size=SIZE)]


# -- what the ledger learns -----------------------------------------------------------------------


def test_the_ledger_has_time_annotator_area_and_origin_of_every_label(project: Project) -> None:
    [task] = project.scans(1)
    kept, changed = region(slice(0, 4), "prediction"), region(slice(4, 6), "prediction-changed")
    by_hand = region(slice(6, 8))
    result = [{**one, "id": str(row)} for row, one in enumerate([*kept, *changed, *by_hand])]
    project.fake.annotate(task, result, by=ANN, seconds=61.5)
    project.sync()
    [label] = project.store.labels.annotations(project.number)
    assert (label.annotator, label.seconds, label.area) == (1, 61.5, 0.5)
    assert (label.kept, label.changed, label.manual) == (1, 1, 1)


def test_annotators_are_numbered_as_they_come_and_keep_their_numbers(project: Project) -> None:
    first, second, third = project.scans(3)
    early = project.fake.annotate(first, region(slice(0, 4)), by=ANN)
    project.sync()
    project.fake.annotate(second, region(slice(0, 4)), by=BEN)
    project.sync()
    project.fake.delete_annotation(early)
    project.fake.annotate(third, region(slice(0, 4)), by={"id": ANN, "email": "someone@a.test"})
    project.sync()
    numbers = [label.annotator for label in project.store.labels.annotations(project.number)]
    assert numbers == [2, 1]
    assert [(row.user, row.number) for row in project.store.annotators.all(project.number)] == [
        (ANN, 1),
        (BEN, 2),
    ]


@pytest.mark.parametrize(
    "lead_time", [None, 0, -3.0, float("nan"), float("inf"), True, "60", 10**400]
)
def test_a_time_that_was_not_measured_is_no_time(lead_time: object) -> None:
    assert sync._seconds(lead_time) is None


@pytest.mark.parametrize("user", [None, True, "7", {"id": None}, 2**40, -1])
def test_a_label_of_an_unknown_user_counts_without_an_annotator(
    project: Project, user: object
) -> None:
    [task] = project.scans(1)
    project.fake.annotate(task, region(slice(0, 4)), by=user, seconds=30.0)
    found = project.minutes()
    assert (found["labels"], found["annotators"]) == (1, [])


def test_labels_that_an_earlier_release_copied_are_completed_by_the_next_full_read(
    project: Project,
) -> None:
    [task] = project.scans(1)
    project.fake.annotate(task, region(slice(0, 4)), by=ANN, seconds=30.0)
    project.sync()
    [label] = project.store.labels.annotations(project.number)
    row = {
        name: getattr(label, name)
        for name in ("id", "task_id", "updated_at", "created_at", "cancelled", "ground_truth")
    }
    project.store.labels.replace(
        project.number, [task], [{**row, "result": "[]", "problem": "", "area": 0.5}]
    )
    project.store.projects.update(project.number, full_synced_at=0.0)
    assert project.minutes()["labels"] == 1


# -- minutes --------------------------------------------------------------------------------------


def test_known_times_give_the_known_minutes(project: Project) -> None:
    for number, task in enumerate(project.scans(14)):
        origin = "manual" if number < 6 else "prediction-changed"
        seconds = 180.0 if number < 6 else 60.0
        project.fake.annotate(task, region(slice(0, 4), origin), by=ANN, seconds=seconds)
    found = project.minutes()
    assert found["total"] == pytest.approx(6 * 3 + 8)
    assert found["drafts"]["used"] == 8
    assert found["saved"]["total"] == {"value": 16.0, "low": 16.0, "high": 16.0}
    assert (found["saved"]["drafted"], found["saved"]["plain"]) == (8, 6)
    assert found["forecast"] is None, "no scan waits"


def test_it_is_too_early_to_tell_what_drafts_save_and_how_long_the_rest_takes(
    project: Project,
) -> None:
    for task in project.scans(6)[:3]:
        project.fake.annotate(task, region(slice(0, 4)), by=ANN, seconds=60.0)
    found = project.minutes()
    assert found["saved"] is None
    assert found["forecast"] is None


def test_the_waiting_scans_are_forecast_by_the_pace_of_the_labels(project: Project) -> None:
    for task in project.scans(20)[:5]:
        project.fake.annotate(task, region(slice(0, 4)), by=ANN, seconds=120.0)
    assert project.minutes()["forecast"] == {"scans": 15, "value": 30.0, "low": 30.0, "high": 30.0}


def test_an_idle_tab_is_cut_and_said(project: Project) -> None:
    for number, task in enumerate(project.scans(6)):
        seconds = 36_000.0 if number == 3 else 60.0
        project.fake.annotate(task, region(slice(0, 4)), by=ANN, seconds=seconds)
    found = project.minutes()
    assert found["capped"] == 1
    assert found["cut"] == pytest.approx(600 - 4)
    assert found["total"] == pytest.approx(5 + 4)


def test_the_labels_of_a_scan_count_together_for_the_longest_work(project: Project) -> None:
    single, double = project.scans(2)
    project.fake.annotate(single, region(slice(0, 4)), by=ANN, seconds=90.0)
    for user in (ANN, BEN):
        project.fake.annotate(double, region(slice(0, 4)), by=user, seconds=60.0)
    assert project.minutes()["longest"] == [
        {"task": double, "minutes": 2.0},
        {"task": single, "minutes": 1.5},
    ]


def test_weeks_begin_on_monday(project: Project) -> None:
    start = datetime.fromtimestamp(project.clock(), UTC)
    monday = start + timedelta(days=7 - start.weekday())
    for days, task in zip((-1, 0, 6, 7), project.scans(4), strict=True):
        project.clock.now = (monday + timedelta(days=days)).timestamp()
        project.fake.annotate(task, region(slice(0, 4)), seconds=60.0)
    weeks = project.minutes()["weeks"]
    assert [(week["week"], week["labels"]) for week in weeks] == [
        ((monday + timedelta(days=shift)).date().isoformat(), labels)
        for shift, labels in ((-7, 1), (0, 2), (7, 1))
    ]


@pytest.mark.parametrize("show", [False, True])
def test_people_are_numbers_and_unranked_unless_the_project_allows_it(
    project: Project, show: bool
) -> None:
    for task, user, seconds in zip(project.scans(2), (ANN, BEN), (90.0, 30.0), strict=True):
        project.fake.annotate(task, region(slice(0, 4)), by=user, seconds=seconds)
    project.options = {"show_people": show}
    record = project.figures()
    assert record.minutes is not None
    order = [one["annotator"] for one in record.minutes["annotators"]]
    assert order == ([2, 1] if show else [1, 2])
    assert record.people == ({"1": ANN, "2": BEN} if show else {})


# -- agreement ------------------------------------------------------------------------------------


def test_masks_of_a_known_overlap_have_the_known_agreement(project: Project) -> None:
    alike, apart = project.scans(2)
    for user in (ANN, BEN):
        project.fake.annotate(alike, region(slice(0, 8)), by=user)
    project.fake.annotate(apart, region(slice(0, 8)), by=BEN)
    project.fake.annotate(apart, region(slice(4, 12)), by=ANN)  # half of either in common
    found = project.agreement()
    assert (found["scans"], found["pairs"], found["annotators"]) == (2, 2, [1, 2])
    assert found["metrics"]["dice"]["mean"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["metrics"]["dice"]["matrix"] == [[None, 0.75], [0.75, None]]
    assert found["metrics"]["dice"]["by_label"] == {"Lung": 0.75}
    assert found["metrics"]["hd95"]["matrix"][0][1] == pytest.approx(2.0)
    assert found["common_scans"] == [[0, 2], [2, 0]]
    assert found["least"][0] == {"task": apart, "dice": 0.5, "hd95": 4.0}


def test_two_labels_of_one_annotator_and_skips_are_no_agreement(project: Project) -> None:
    [task] = project.scans(1)
    for _ in range(2):
        project.fake.annotate(task, region(slice(0, 8)), by=ANN)
    project.fake.annotate(task, skip=True, by=BEN)
    assert project.figures().agreement is None


def test_a_corrected_or_deleted_label_changes_the_agreement(project: Project) -> None:
    [task] = project.scans(1)
    project.fake.annotate(task, region(slice(0, 8)), by=ANN)
    second = project.fake.annotate(task, region(slice(4, 12)), by=BEN)
    assert project.agreement()["metrics"]["dice"]["mean"] == pytest.approx(0.5)
    project.clock.advance(10)
    project.fake.change_annotation(second, result=region(slice(0, 8)))
    assert project.agreement()["metrics"]["dice"]["mean"] == 1.0
    project.fake.delete_annotation(second)
    assert project.figures().agreement is None


def test_a_refresh_compares_a_bounded_number_of_scans_and_asks_for_the_next_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "SCANS_AT_ONCE", 2)
    for task in project.scans(3):
        for user in (ANN, BEN, CEM):
            project.fake.annotate(task, region(slice(0, 8)), by=user)
    before = the(project.store, project.number).requested
    assert project.agreement()["pairs"] == 6
    assert the(project.store, project.number).requested == before + 1
    assert project.agreement()["pairs"] == 9
    assert the(project.store, project.number).requested == before + 1


def test_a_pair_is_compared_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    [task] = project.scans(1)
    for user in (ANN, BEN):
        project.fake.annotate(task, region(slice(0, 8)), by=user)
    before = project.agreement()
    monkeypatch.setattr(agreement, "_compare_scan", None)  # a second comparison would fail
    assert project.agreement() == before


def test_large_scans_are_compared_smaller_with_distances_in_their_own_pixels() -> None:
    (height, width), spacing = agreement._reduced((4096, 2048))
    assert (height, width) == (512, 256)
    assert spacing == (8.0, 8.0)
    assert agreement._reduced((16, 16)) == ((16, 16), (1.0, 1.0))
    assert np.prod(agreement._reduced((1, 100_000))[0]) >= 1


def test_scans_that_were_not_read_wait_for_their_size(project: Project) -> None:
    [task] = project.scans(1)
    project.store.scans.update(project.number, task, height=0, width=0)
    for user in (ANN, BEN):
        project.fake.annotate(task, region(slice(0, 8)), by=user)
    assert project.figures().agreement is None


def test_a_deleted_scan_or_project_leaves_no_figures(project: Project) -> None:
    gone, _ = project.scans(2)
    for user in (ANN, BEN):
        project.fake.annotate(gone, region(slice(0, 8)), by=user, seconds=5.0)
    project.agreement()
    project.fake.delete_task(gone)
    assert project.figures() == LabelRecord()
    assert project.store.annotators.comparisons(project.number) == []
    project.store.projects.forget(project.number)
    assert project.store.annotators.all(project.number) == []
    assert project.store.annotators.figures_digest(project.number) == ""


# -- how much of the drafts was changed -----------------------------------------------------------


def test_changed_pixels_are_told_over_all_by_label_and_by_origin(project: Project) -> None:
    for task, (origin, changed) in zip(
        project.scans(4), [("prediction", 0), ("prediction-changed", 50)] * 2, strict=True
    ):
        project.fake.annotate(task, region(slice(0, 4), origin), by=ANN, seconds=30.0)
        project.store.labels.save_draft_score(
            DraftScore(
                project_id=project.number,
                task_id=task,
                version="v",
                created_at=f"2026-01-0{task % 9 + 1}",
                dice=1.0 - changed / 200,
                pixels={"Lung": {"draft": 100, "changed": changed}},
            )
        )
    found = project.minutes()["drafts"]["pixels"]
    assert found["labels"] == 4
    assert found["share"]["value"] == pytest.approx(0.25)
    assert found["share"]["low"] <= 0.25 <= found["share"]["high"]
    assert found["by_label"] == {"Lung": 0.25}
    assert [(one["origin"], one["share"], one["dice"]) for one in found["by_origin"]] == [
        ("kept", 0.0, 1.0),
        ("changed", 0.5, 0.75),
    ]
    state = {"minutes": project.figures().minutes}
    assert any("25.0% of the pixels of drafts were changed (" in one for one in minutes(state))
