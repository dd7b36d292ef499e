from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.options import ProjectOptions
from backend.rounds.selection import Selector
from backend.rounds.services import Services
from backend.storage import artifacts, ledger, records
from backend.storage.artifacts import ProjectFiles
from backend.storage.records import QueueRecord
from backend.storage.tables import Annotation, Publication
from model import active_learning, encoders
from model.expected_minutes import MaskSummary
from model.projection import Projection
from tests.backend.conftest import the
from tests.backend.fake_label_studio import CONFIG

ENCODER = encoders.load("pixels")


def judged(uncertainties: Mapping[int, float]) -> dict[int, MaskSummary]:
    """Return what a model hands on of these scans."""
    return {task: MaskSummary(value) for task, value in uncertainties.items()}


class Pool:
    """Scans 1 to n of project 1: tasks, embeddings, annotations, written straight to the store."""

    def __init__(self, services: Services, count: int) -> None:
        self.store, self.folder = services.store, services.folder(1)
        self.store.projects.request_refresh(1)
        self.store.projects.update(1, label_config=CONFIG)
        self.options(projection="pca", cold_start_budget=3)
        self.annotations = 0
        self.add(*range(1, count + 1))

    def options(self, **values: Any) -> None:
        before = the(self.store, 1).options
        self.store.projects.update(1, options=ProjectOptions(**{**before, **values}).model_dump())

    def add(self, *numbers: int, embedded: bool = True, **values: Any) -> None:
        for number in numbers:
            task = {"id": number, "url": f"{number}.png", "is_labeled": False, **values}
            self.store.scans.save(1, [{"group": "", "updated_at": "1", **task}])
            if embedded:
                vector = np.random.default_rng(number).random((1, ENCODER.dim), np.float32)
                artifacts.write_array(self.folder / "embeddings" / f"{number}.npy", vector)
                self.store.embeddings.save(1, ENCODER.name, f"{number}.npy", [number])

    def label(self, task: int, *, skip: bool = False, closes: bool = True) -> int:
        self.annotations += 1
        self.store.labels.replace(
            1,
            [],
            [
                {
                    "id": self.annotations,
                    "task_id": task,
                    "updated_at": f"at {self.annotations}",
                    "created_at": "2027-01-01T00:00:00Z",
                    "cancelled": skip,
                    "ground_truth": False,
                    "result": "[]",
                }
            ],
        )
        self.store.scans.update(1, task, is_labeled=closes and not skip)
        return self.annotations

    def correct(self, annotation: int) -> None:
        with self.store.session() as session:
            session.get_one(Annotation, (1, annotation)).updated_at = "later"

    def unlabel(self, task: int) -> None:
        self.store.labels.replace(1, [task], [])
        self.store.scans.update(1, task, is_labeled=False)

    @property
    def now(self) -> ledger.Ledger:
        return ledger.read(self.store, 1)

    @property
    def selector(self) -> Selector:
        return Selector(self.store, the(self.store, 1), ProjectFiles(self.folder), ENCODER)

    def plan(self) -> dict[str, Any]:
        return self.selector.plan(self.now)

    def rank(self, uncertainties: dict[int, float] | None = None) -> QueueRecord:
        return self.selector.rank(self.now, judged(uncertainties or {}))

    def go_live(self, number: int = 1, queue: QueueRecord | None = None) -> None:
        """Publish a queue; without one, what a round would publish now."""
        plan, queue = self.plan(), queue or self.rank()
        records.write_queue(ProjectFiles(self.folder), number, queue)
        self.store.publications.save(
            Publication(
                project_id=1, name=f"r{number}", round=number, attempt=1, published=queue.order
            )
        )
        self.store.publications.go_live(1, f"r{number}", fingerprint=plan["fingerprint"])


@pytest.fixture
def pool(services: Services) -> Pool:
    return Pool(services, 12)


# -- when a round is due --------------------------------------------------------------------------


def test_the_first_round_is_due_and_does_not_train(pool: Pool) -> None:
    plan = pool.plan()
    assert plan["due"]
    assert not plan["train"]


def test_nothing_is_due_while_no_scan_can_be_read(services: Services) -> None:
    pool = Pool(services, 0)
    assert not pool.plan()["due"]
    pool.add(1, 2, embedded=False)
    assert not pool.plan()["due"]


def test_nothing_is_due_when_nothing_changed(pool: Pool) -> None:
    pool.go_live()
    assert not pool.plan()["due"]


def test_a_round_trains_from_the_second_label_on(pool: Pool) -> None:
    pool.label(1)
    assert not pool.plan()["train"]
    pool.label(2)
    assert pool.plan()["train"]


def test_skips_are_no_labels_to_train_on(pool: Pool) -> None:
    pool.label(1)
    pool.label(2, skip=True)
    assert not pool.plan()["train"]


def test_a_round_is_due_after_as_many_changes_as_retrain_after_says(pool: Pool) -> None:
    pool.options(retrain_after=3)
    pool.go_live()
    due = []
    for task in (1, 2, 3):
        pool.label(task)
        due.append(pool.plan()["due"])
    assert due == [False, False, True]


def test_a_round_that_a_person_asked_for_is_due_until_it_is_done(pool: Pool) -> None:
    pool.options(retrain_after=99)
    pool.go_live()
    pool.store.projects.request_refresh(1)
    assert not pool.plan()["due"]
    pool.store.projects.request_refresh(1, train=True)
    pool.store.projects.request_refresh(1)
    assert pool.plan()["due"]
    pool.store.projects.update(1, completed=the(pool.store, 1).requested)
    assert not pool.plan()["due"]


def test_a_pinned_project_makes_no_round_of_a_press_of_start_training(pool: Pool) -> None:
    pool.go_live()
    pinned = pool.selector.plan(pool.now, "r1")["fingerprint"]
    pool.store.projects.update(1, fingerprint=pinned)
    pool.store.projects.request_refresh(1, train=True)
    assert not pool.selector.plan(pool.now, "r1")["due"]


def test_a_corrected_label_is_one_change(pool: Pool) -> None:
    pool.options(retrain_after=2)
    annotations = [pool.label(task) for task in (1, 2)]
    pool.go_live()
    due = []
    for annotation in annotations:
        pool.correct(annotation)
        due.append(pool.plan()["due"])
    assert due == [False, True]


def test_a_label_that_goes_or_changes_counts_as_a_change(pool: Pool) -> None:
    pool.label(1)
    pool.label(2)
    pool.go_live()
    pool.unlabel(1)
    assert pool.plan()["due"]
    pool.go_live(2)
    pool.unlabel(2)
    pool.label(2)
    assert pool.plan()["due"]


@pytest.mark.parametrize(
    "change",
    [
        lambda pool: pool.add(13),
        lambda pool: pool.label(5, skip=True),
        lambda pool: pool.options(alpha=0.7),
        lambda pool: pool.add(5, url="other.png"),
        lambda pool: pool.store.scans.update(1, 5, problem="broken"),
        lambda pool: pool.store.scans.keep_only(1, range(2, 13)),
        lambda pool: pool.store.projects.update(1, label_config=CONFIG.replace("Lung", "Heart")),
    ],
    ids=["new scan", "skip", "option", "other image", "unreadable", "deleted", "label config"],
)
def test_what_changes_the_queue_makes_a_round_due_at_once(pool: Pool, change: Any) -> None:
    pool.options(retrain_after=99)
    pool.go_live()
    change(pool)
    assert pool.plan()["due"]


def test_a_pause_that_ended_alone_makes_no_round(pool: Pool) -> None:
    pool.go_live()
    pool.options(paused=True)
    pool.options(paused=False)
    assert not pool.plan()["due"]


def test_another_reason_why_a_scan_cannot_be_read_makes_no_round(pool: Pool) -> None:
    pool.store.scans.update(1, 5, problem="ReadTimeout")
    pool.go_live()
    pool.store.scans.update(1, 5, problem="ConnectError")
    assert not pool.plan()["due"]


def test_another_encoder_makes_a_round_due(pool: Pool) -> None:
    pool.go_live()
    pool.store.embeddings.save(1, "other", "1.npy", [1])
    other = replace(ENCODER, name="other")
    plan = Selector(pool.store, the(pool.store, 1), ProjectFiles(pool.folder), other).plan(pool.now)
    assert plan["due"]


def test_an_encoder_of_two_parts_orders_the_pool_by_both(pool: Pool) -> None:
    both = encoders.load("statistics+pixels")
    for number in range(1, 13):
        rng = np.random.default_rng(number)
        image = rng.random((20, 30), np.float32)
        artifacts.write_array(pool.folder / "embeddings" / f"b{number}.npy", both.encode([image]))
        pool.store.embeddings.save(1, both.name, f"b{number}.npy", [number])
    files = ProjectFiles(pool.folder)
    record = Selector(pool.store, the(pool.store, 1), files, both).rank(pool.now, {})
    assert sorted(record.order) == list(range(1, 13))
    [name] = files.names("maps")
    scale = files.read(name, Projection.load).scale
    assert scale[0] != scale[-1]


def test_a_round_is_due_when_fewer_than_a_quarter_of_the_published_are_open(pool: Pool) -> None:
    pool.options(retrain_after=99)
    pool.go_live()
    for task in range(1, 10):
        pool.label(task)
    assert not pool.plan()["due"]  # 3 of 12
    pool.label(10)
    assert pool.plan()["due"]


def test_with_every_scan_labelled_one_round_trains_on_all_labels(pool: Pool) -> None:
    pool.go_live()
    for task in range(1, 13):
        pool.label(task)
    plan = pool.plan()
    assert plan["due"]
    assert plan["train"]
    opened = pool.store.rounds.of_workflow(1, "the last")
    records.write_queue(ProjectFiles(pool.folder), opened.number, pool.rank())
    assert not pool.plan()["due"]
    pool.correct(1)
    assert pool.plan()["due"]


def test_with_every_scan_labelled_a_pinned_project_trains_nothing(pool: Pool) -> None:
    pool.go_live()
    for task in range(1, 13):
        pool.label(task)
    assert not pool.selector.plan(pool.now, "r1")["due"]


def test_a_lost_record_makes_a_round_due(pool: Pool) -> None:
    pool.go_live()
    (pool.folder / "rounds" / "0001.json").unlink()
    assert pool.plan()["due"]


# -- the queue ------------------------------------------------------------------------------------


def test_the_queue_holds_every_open_scan_once_and_no_labelled_one(pool: Pool) -> None:
    pool.add(13, 14, embedded=False)
    for task in (2, 7):
        pool.label(task)
    queue = pool.rank()
    assert sorted(queue.order) == sorted(set(range(1, 15)) - {2, 7})
    assert len(queue.reasons) == len(queue.order)
    assert all(queue.reasons)


def test_behind_the_pool_come_second_opinions_then_skips_then_unreadable_scans(
    pool: Pool,
) -> None:
    pool.add(13, embedded=False, problem="too large")
    pool.label(4, closes=False)  # one of two annotations
    pool.label(6, skip=True)
    queue = pool.rank()
    assert queue.order[-3:] == [4, 6, 13]
    second, skip, unread = queue.reasons[-3:]
    assert "another annotator" in second
    assert "skipped" in skip
    assert "too large" in unread


def test_a_cold_start_decides_until_its_budget_is_labelled(pool: Pool) -> None:
    uncertainties = {task: task / 12 for task in range(1, 13)}
    pool.label(1)
    pool.label(2)
    assert pool.rank(uncertainties).phase == "cold-start"
    pool.label(3)
    assert pool.rank(uncertainties).phase == "acquisition"
    assert pool.rank().phase == "cold-start"  # without a model


def test_without_diversity_the_most_uncertain_scan_comes_first(pool: Pool) -> None:
    pool.options(alpha=0.0)
    for task in (1, 2, 3):
        pool.label(task)
    uncertainties = {task: (task * 5 % 12) / 12 for task in range(4, 13)}
    queue = pool.rank(uncertainties)
    assert queue.order == sorted(uncertainties, key=lambda task: -uncertainties[task])


def test_a_scan_that_the_model_could_not_judge_comes_last_with_the_reason(pool: Pool) -> None:
    pool.options(alpha=1.0)
    for task in (1, 2, 3):
        pool.label(task)
    queue = pool.rank({task: 0.5 for task in range(4, 12)})
    assert queue.order[-1] == 12
    assert queue.reasons[-1] == "could not be read when the model judged the others"
    assert 12 not in queue.scans


def test_of_a_large_pool_a_part_is_scored_and_the_rest_keeps_or_gets_a_value(pool: Pool) -> None:
    pool.options(alpha=0.0, score_limit=3)
    for task in (1, 2, 3):
        pool.label(task)
    first = pool.selector.to_score(pool.now)
    assert len(first) == 3
    scored = {task: 0.1 * place for place, task in enumerate(first, start=1)}
    queue = pool.selector.rank(pool.now, judged(scored), first, 1)
    assert sorted(queue.order) == list(range(4, 13)), "nothing counts as unreadable"
    by_task = {task: queue.scans[task] for task in range(4, 13)}
    assert {task for task, terms in by_task.items() if terms["scored_in"] == 1} == set(first)
    assert {terms["scored_in"] for terms in by_task.values()} == {1, None}
    assert all(0.1 <= terms["entropy"] <= 0.3 + 1e-9 for terms in by_task.values())
    estimated = next(task for task in by_task if task not in first)
    assert queue.reason_of[estimated].endswith("estimated from scans that look alike")

    records.write_queue(ProjectFiles(pool.folder), 1, queue)
    pool.store.publications.save(
        Publication(project_id=1, name="r1", round=1, attempt=1, published=queue.order)
    )
    pool.store.publications.go_live(1, "r1", fingerprint="")
    second = pool.selector.to_score(pool.now)
    assert max(scored, key=lambda task: scored[task]) in second, "it was the most uncertain"
    queue = pool.selector.rank(pool.now, judged(dict.fromkeys(second, 0.5)), second, 2)
    kept = next(task for task in first if task not in second)
    assert queue.scans[kept]["scored_in"] == 1
    assert queue.scans[kept]["entropy"] == pytest.approx(scored[kept])
    assert queue.reason_of[kept].endswith("; scored in round 1")
    assert queue.reason_of[second[0]].find("scored in") == -1


def test_without_a_limit_the_whole_pool_is_scored(pool: Pool) -> None:
    pool.options(score_limit=3)
    assert len(pool.selector.to_score(pool.now)) == 3
    pool.options(score_limit=0)
    assert len(pool.selector.to_score(pool.now)) == 12


def test_of_the_scans_that_were_to_be_scored_those_that_were_not_come_last(pool: Pool) -> None:
    pool.options(score_limit=3)
    for task in (1, 2, 3):
        pool.label(task)
    asked = pool.selector.to_score(pool.now)
    queue = pool.selector.rank(pool.now, judged(dict.fromkeys(asked[1:], 0.5)), asked, 1)
    assert queue.order[-1] == asked[0]
    assert queue.reasons[-1] == "could not be read when the model judged the others"


def test_a_skipped_scan_has_no_part_in_the_selection(pool: Pool) -> None:
    first = pool.rank().order[0]
    pool.label(first, skip=True)
    skipped = pool.rank()
    pool.store.scans.keep_only(1, [n for n in range(1, 13) if n != first])
    pool.store.labels.replace(1, [first], [])

    gone = pool.rank()

    assert skipped.order == [*gone.order, first]
    assert first not in skipped.scans


def test_the_same_state_gives_the_same_record_and_it_is_json(pool: Pool) -> None:
    pool.label(1)
    record = pool.rank()
    assert json.loads(json.dumps(record.model_dump(), allow_nan=False))
    assert pool.rank() == record


def test_a_record_holds_what_its_decision_rests_on(pool: Pool) -> None:
    pool.label(1)
    record = pool.rank()
    assert record.labels == ["1@at 1"]
    assert record.options["seed"] == 0
    assert (record.strategy, record.alpha) == (ProjectOptions().cold_start, None)
    assert record.encoder == "pixels"
    assert record.rules == active_learning.RULES
    assert set(record.scans) == set(range(2, 13))
    assert set(record.medoids) <= set(range(1, 13))


@pytest.mark.parametrize("cold_start", ["medoids", "kmeans"])
def test_a_record_tells_how_much_of_the_map_has_a_label(pool: Pool, cold_start: str) -> None:
    pool.options(cold_start=cold_start)
    bare = pool.rank()
    assert (bare.alike, bare.clusters_labelled) == (0.0, 0)
    pool.label(1)
    some = pool.rank()
    assert some.alike is not None
    assert 0 < some.alike < 1
    assert some.clusters_labelled == 1
    for task in range(2, 12):
        pool.label(task)
    most = pool.rank()
    assert most.alike == pytest.approx(1, abs=0.1)
    assert most.clusters_labelled == most.clusters


def test_the_options_of_a_strategy_reach_the_decision(pool: Pool) -> None:
    pool.options(cold_start="kmeans")
    assert pool.rank().strategy == "kmeans"
    pool.options(acquisition="entropy-diversity", alpha="auto", random_fraction=0.5, batch_size=4)
    for task in (1, 2, 3):
        pool.label(task)
    record = pool.rank({task: task / 12 for task in range(1, 13)})
    assert record.strategy == "entropy-diversity"
    assert 0 < (record.alpha or 0) < 1
    drawn = [task for task in record.order if record.scans[task]["control"]]
    assert len(drawn) == 2
    assert record.reasons[record.order.index(drawn[0])] == "drawn at random, as a control"


def test_what_is_wrong_with_the_map_is_in_the_record(pool: Pool) -> None:
    alike = np.ones((1, ENCODER.dim), np.float32)
    for number in range(1, 13):
        artifacts.write_array(pool.folder / "embeddings" / f"{number}.npy", alike)
    assert pool.rank().warnings[0].startswith("domain: the median cosine")


def test_untouched_groups_come_first(pool: Pool) -> None:
    pool.options(group_by="patient")
    for number in range(1, 13):
        pool.add(number, group="A" if number <= 6 else f"B{number}")
    pool.label(1)
    first = pool.rank().order[:2]
    assert all(number > 6 for number in first)


def test_slices_far_from_a_labelled_one_come_before_slices_near_to_it(pool: Pool) -> None:
    pool.options(group_by="volume", slice_by="slice")
    for number in range(1, 13):
        pool.add(number, group="A" if number <= 9 else "B", place=float(number))
    pool.label(1)
    pool.label(10)

    record = pool.rank()

    order = record.order
    assert [record.scans[task]["place"] for task in order] == order
    assert order[0] in {5, 6, 7, 8, 9, 11, 12}  # with half of an extent or more
    assert order.index(2) > max(order.index(11), order.index(12))  # 2 has an eighth


def test_places_need_a_group_and_a_key_that_tasks_have(pool: Pool) -> None:
    pool.options(slice_by="slice")
    first, second = [line for line in pool.rank().warnings if line.startswith("slice_by")]
    assert "no task has the key 'slice'" in first
    assert "without group_by" in second


def test_places_change_the_fingerprint_once_they_are_asked_for(pool: Pool) -> None:
    pool.options(group_by="volume")
    plain = pool.plan()["fingerprint"]
    pool.options(group_by="volume", slice_by="")
    assert pool.plan()["fingerprint"] == plain
    pool.options(group_by="volume", slice_by="slice")
    asked = pool.plan()["fingerprint"]
    pool.add(1, place=4.0)
    assert len({plain, asked, pool.plan()["fingerprint"]}) == 3


def test_every_source_gives_a_scan_first_and_the_record_keeps_its_number_without_its_name(
    pool: Pool,
) -> None:
    clinics = {**dict.fromkeys(range(1, 8), "North"), **dict.fromkeys((8, 9), "South")}
    for number, clinic in clinics.items():
        pool.add(number, source=clinic)
    pool.options(source_by="clinic", cold_start_budget=6)

    record = pool.rank()

    first = record.order[:3]
    assert [pool.now.sources.get(task, "") for task in first] == ["South", "", "North"]
    assert all(reason.startswith("first scan of its source; ") for reason in record.reasons[:3])
    assert not any("first scan" in reason for reason in record.reasons[3:])
    assert [record.scans[task]["source"] for task in first] == [2, 0, 1]
    assert "South" not in record.model_dump_json()
    shown = record.explained(pool.now.sources)
    assert shown[first[0]].startswith("first scan of source South; ")
    assert shown[first[1]].startswith("first scan without a source; ")
    assert not any("source_by" in warning for warning in record.warnings)


def test_a_key_that_no_task_has_is_a_warning(pool: Pool) -> None:
    pool.options(source_by="clnic")
    [warning] = [line for line in pool.rank().warnings if line.startswith("source_by")]
    assert "no task has the key 'clnic'" in warning


def test_a_source_with_a_label_has_no_first_scan_any_more(pool: Pool) -> None:
    for number in range(1, 13):
        pool.add(number, source="North" if number <= 9 else "South")
    pool.options(source_by="clinic")
    pool.label(12)

    record = pool.rank()

    assert record.order[0] <= 9
    assert ["first scan" in reason for reason in record.reasons[:3]] == [True, False, False]
    pool.label(1)
    pool.label(2)
    scored = pool.rank({task: task / 12 for task in range(1, 13)})
    assert scored.phase == "acquisition"
    assert not any("first scan" in reason for reason in scored.reasons)


@pytest.mark.parametrize(
    ("option", "usual", "other"),
    [
        ("merge", "majority", "staple"),
        ("second_reading", 0.0, 0.1),
        ("show_people", False, None),
        ("by_minutes", False, True),
        ("review", True, None),
    ],
)
def test_an_upgrade_with_a_new_option_makes_no_round_due(
    pool: Pool, option: str, usual: object, other: object
) -> None:
    pool.options()
    stored = dict(the(pool.store, 1).options)
    plain = pool.plan()["fingerprint"]
    del stored[option]  # as an earlier release stored them
    pool.store.projects.update(1, options=stored)
    assert pool.plan()["fingerprint"] == plain
    pool.options(**{option: usual})
    assert pool.plan()["fingerprint"] == plain
    if other is not None:
        pool.options(**{option: other})
        assert pool.plan()["fingerprint"] != plain


def test_scans_that_wait_for_their_second_reader_come_first_only_if_that_was_asked_for(
    pool: Pool,
) -> None:
    pool.label(3, closes=False)
    assert pool.rank().order[-1] == 3
    pool.options(second_reading=0.1)
    queue = pool.rank()
    assert (queue.order[0], queue.reasons[0]) == (
        3,
        "has a label; a second annotation is asked for",
    )
    assert sorted(queue.order) == list(range(1, 13))


def test_changed_sources_make_a_round_due_and_none_leave_the_fingerprint_as_it_was(
    pool: Pool,
) -> None:
    plain = pool.plan()["fingerprint"]
    pool.options(method="paper", refine=False)
    assert pool.plan()["fingerprint"] == plain
    pool.options(source_by="clinic")
    named = pool.plan()["fingerprint"]
    pool.add(3, source="North")
    assert len({plain, named, pool.plan()["fingerprint"]}) == 3


def test_every_embedded_scan_has_a_cluster(pool: Pool) -> None:
    clusters = pool.selector.clusters()
    assert set(clusters) == set(range(1, 13))
    assert min(clusters.values()) >= 0


def test_a_model_judges_open_scans_without_a_label_only(pool: Pool) -> None:
    pool.add(13, embedded=False)
    pool.label(1)
    pool.label(2, closes=False)
    assert pool.selector.pool(pool.now) == [(n, f"{n}.png") for n in range(3, 13)]


def test_a_substitute_encoder_is_a_warning(pool: Pool) -> None:
    stand_in = replace(ENCODER, substitution="stands in")
    selector = Selector(pool.store, the(pool.store, 1), ProjectFiles(pool.folder), stand_in)
    assert selector.warnings == ["stands in"]
