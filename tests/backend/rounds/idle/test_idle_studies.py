from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from dbos import DBOS

from backend.errors import LabelStudioError
from backend.label_studio import labels, review_predictions, review_tab
from backend.rounds import erasing, steps
from backend.rounds.context import RoundContext
from backend.rounds.idle import (
    idle_studies,
    label_review,
    refinement,
    review_files,
    review_folds,
    review_list,
)
from backend.rounds.idle.label_review import LabelReview
from backend.storage import artifacts, ledger
from backend.storage.publications import Author
from backend.storage.records import ReviewedScan
from backend.storage.tables import Annotation
from backend.worker import main
from model import phantoms, review
from model.refinement import Stopped
from tests.backend.fake_label_studio import CONFIG
from tests.backend.site import OPTIONS, SIZE, Site, assert_each_task_once

LABELLED = (0, 1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _ready(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five labels, the third a wrong one, and a live queue; networks know what is right."""
    monkeypatch.setattr(review_list, "LEAST_GROUPS", 5)
    monkeypatch.setattr(refinement, "POLL_SECONDS", 0.0)
    site.entry["extra_params"] = {**OPTIONS, "review": True}
    site.label(0, 1, 3, 4)
    wrong = np.roll(site.phantoms[2].mask, 12, axis=2)
    site.fake.annotate(site.tasks[2], labels.regions(wrong, labels.parse(CONFIG), scores=[1.0]))
    site.refresh()
    right = {tuple(np.rint(p.image * 255).ravel()[:99]): p.mask for p in site.phantoms}

    def predicted(labelled: Any, held: Any, config: Any, *, stop: Callable[[], bool]) -> Any:
        masks = [right[tuple(np.rint(i * 255).ravel()[:99])] for i in labelled.part(held).images]
        if stop():
            raise Stopped
        return [np.where(mask, 0.99, 0.01).astype(np.float32) for mask in masks]

    monkeypatch.setattr(review, "out_of_fold", predicted)


@pytest.fixture
def training(_ready: None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The labelled scans and the held rows of every network that was trained."""
    trained: list[Any] = []
    predicted = review.out_of_fold

    def noted(labelled: Any, held: Any, config: Any, **named: Any) -> Any:
        trained.append((labelled, held))
        return predicted(labelled, held, config, **named)

    monkeypatch.setattr(review, "out_of_fold", noted)
    return trained


def stop_after(folds: int, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a refresh be requested once so many folds have ended."""
    calls, predicted = itertools.count(), review.out_of_fold

    def ended(*given: Any, **named: Any) -> Any:
        if next(calls) == folds:
            site.store.projects.request_refresh(site.number)
        return predicted(*given, **named)

    monkeypatch.setattr(review, "out_of_fold", ended)


def renew_queue(site: Site, alpha: float) -> None:
    """Let a new queue go live."""
    site.store.projects.update(site.number, fingerprint="")
    site.entry["extra_params"] |= {"alpha": alpha}
    site.store.projects.request_refresh(site.number)
    site.refresh()


def add_scan(site: Site) -> None:
    """Keep a scan waiting, so that there is a queue once all others are labelled."""
    [scan] = phantoms.generate(1, size=SIZE, seed=1)
    site.fake.add_task(site.number, scan.image)
    site.store.projects.request_refresh(site.number, full=True)


def study(site: Site) -> None:
    site.clock.advance(1)
    DBOS.start_workflow(site.rounds.studies.study, site.number, "review").get_result()


def due(site: Site) -> list[tuple[int, str]]:
    return site.rounds.studies.due()


def listed(site: Site) -> list[ReviewedScan]:
    now = ledger.read(site.store, site.number)
    return review_list.under_suspicion(site.store, site.number, now)


def reviewed(site: Site) -> dict[int, float]:
    """The score of each prediction of the live version on a labelled task."""
    return {
        row["task"]: row["score"]
        for row in site.fake.projects[site.number].predictions
        if row["model_version"] == site.project.live_version and site.fake.is_labeled(row["task"])
    }


def files(site: Site) -> list[str]:
    return site.services.files(site.number).names(artifacts.REVIEWS)


def test_every_study_is_a_step_that_makes_way_for_a_round() -> None:
    assert {study.name for study in idle_studies.STUDIES} | {steps.REFINE} == steps.IDLE


def test_a_wrong_label_comes_first_with_its_reason_and_the_queue_stays(site: Site) -> None:
    queue = site.queue
    assert due(site) == [(site.number, "review")]
    study(site)
    worst = listed(site)[0]
    assert (worst.task, worst.reason, worst.about) == (site.tasks[2], "both", "Lung")
    assert worst.score > 0.1 > listed(site)[1].score
    scores = reviewed(site)
    assert set(scores) == {site.tasks[row] for row in LABELLED}
    assert max(scores, key=lambda task: scores[task]) == site.tasks[2]
    assert all(1 <= score <= 2 for score in scores.values()), "above every score of a queue"
    assert site.queue == queue
    assert due(site) == [], "a queue is reviewed once"
    assert (site.project.step, site.project.progress, site.project.problem) == ("", {}, "")
    [tab] = [t["data"] for t in site.fake.tabs.values() if t["data"]["title"] == review_tab.TITLE]
    assert tab["ordering"] == ["-tasks:predictions_score"]
    assert [item["filter"] for item in tab["filters"]["items"]] == [
        "filter:tasks:total_annotations"
    ]


def test_a_new_queue_takes_the_folds_over_and_no_task_holds_two_predictions(site: Site) -> None:
    study(site)
    first = files(site)
    renew_queue(site, 0.9)
    assert due(site) == [(site.number, "review")]
    study(site)
    assert files(site) == first
    assert set(reviewed(site)) == {site.tasks[row] for row in LABELLED}
    assert_each_task_once(site)


def test_repeating_a_review_writes_nothing_twice(site: Site) -> None:
    study(site)
    site.store.studies.save(site.number, "review", "", {})
    study(site)
    assert_each_task_once(site)
    assert review_list.published(site.store, site.number, site.project.live_version) == 5


def test_a_scan_of_the_live_queue_gets_no_second_prediction(site: Site) -> None:
    site.entry["extra_params"] |= {"retrain_after": 50}
    site.store.projects.request_refresh(site.number)
    site.refresh()
    site.label(5)  # it has a place in the live queue
    site.refresh()
    study(site)
    assert site.tasks[5] in {scan.task for scan in listed(site)}
    assert_each_task_once(site)


def test_a_corrected_and_a_confirmed_label_leave_the_list(site: Site) -> None:
    study(site)
    worst, second = listed(site)[:2]
    ada = Author("page", "ada")
    site.store.publications.confirm(site.number, second.task, second.label, ada)
    assert second.task not in {scan.task for scan in listed(site)}
    [annotation] = [a for a in site.fake.projects[site.number].annotations.values()
                    if a["task"] == worst.task]  # fmt: skip
    site.fake.change_annotation(annotation["id"])
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert {scan.task for scan in listed(site)}.isdisjoint({worst.task, second.task})
    study(site)
    assert second.task not in {scan.task for scan in listed(site)}, "a confirmation lasts"
    assert second.task not in reviewed(site)
    assert worst.task not in reviewed(site), "the suspicion was about another label"


def test_few_changed_labels_train_nothing_and_the_suspicions_stay_in_view(
    site: Site, training: list[Any]
) -> None:
    study(site)
    add_scan(site)
    site.label(5)
    site.refresh()
    trained = len(training)
    assert due(site) == [(site.number, "review")], "the new queue shows nothing yet"
    study(site)
    assert len(training) == trained
    assert set(reviewed(site)) == {site.tasks[row] for row in LABELLED}
    assert due(site) == []


def test_enough_changed_labels_are_reviewed_anew(site: Site, training: list[Any]) -> None:
    study(site)
    before, trained = files(site), len(training)
    for number in list(site.fake.projects[site.number].annotations):
        site.fake.change_annotation(number)
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert listed(site) == []
    study(site)
    assert len(training) == trained + review.FOLDS
    assert len(listed(site)) == len(LABELLED)
    assert not {*before} & {*files(site)}


def test_a_review_by_an_early_release_is_made_anew_although_its_queue_is_still_live(
    site: Site,
) -> None:
    study(site)
    stored = review_list.read(site.store, site.number).written()
    early = [{**scan, "file": "reviews/0a1b-0.json"} for scan in stored["scans"]]
    version, of_project = site.project.live_version, site.services.files(site.number)
    site.store.studies.save(
        site.number, "review", version, {"scans": early, "published": len(LABELLED)}
    )
    for name in files(site):
        of_project.remove(name)
    of_project.write_json("reviews/0a1b-0.json", {})
    assert due(site) == [(site.number, "review")]
    study(site)
    pictures = [task for name in files(site) for task in review_files.regions(of_project, name)]
    assert sorted(pictures) == [site.tasks[row] for row in LABELLED]
    assert review_list.published(site.store, site.number, version) == len(LABELLED)
    assert_each_task_once(site)
    assert due(site) == []


def test_a_deleted_scan_leaves_the_review_at_once(site: Site) -> None:
    study(site)
    [*left, last] = [site.tasks[row] for row in LABELLED]
    site.store.scans.keep_only(site.number, left)
    stored = review_list.read(site.store, site.number)
    assert last not in {scan.task for scan in stored.scans}
    assert last not in stored.shown
    of_project = site.services.files(site.number)
    erasing.erase(site.store, of_project, site.number, site.store.erasures.to_do())
    kept = [task for name in files(site) for task in review_files.regions(of_project, name)]
    assert sorted(kept) == left


def test_a_scan_with_other_pixels_leaves_the_review_at_once(site: Site) -> None:
    study(site)
    first = site.tasks[0]
    site.store.scans.save(site.number, [{"id": first, "url": "/other.png"}])
    assert first not in {scan.task for scan in listed(site)}


def test_a_tab_that_a_person_removed_stays_away(site: Site) -> None:
    study(site)
    site.fake.tabs.clear()
    for scan in listed(site):  # the next review shows nothing
        site.store.publications.confirm(site.number, scan.task, scan.label, Author("page", "ada"))
    renew_queue(site, 0.9)
    study(site)
    assert review_list.read(site.store, site.number).shown == []
    for number in list(site.fake.projects[site.number].annotations):
        site.fake.change_annotation(number)
    renew_queue(site, 0.8)
    study(site)
    assert reviewed(site)
    assert site.fake.tabs == {}


@pytest.mark.parametrize(
    ("module", "name"),
    [(review, "out_of_fold"), (review_folds, "judge"), (review_predictions, "publish")],
)
def test_a_review_of_a_project_that_is_forgotten_meanwhile_writes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    forgotten: list[bool] = []
    work = getattr(module, name)

    def forget_after(*given: Any, **named: Any) -> Any:
        done = work(*given, **named)
        site.store.projects.forget(site.number)
        for file in files(site):
            site.services.files(site.number).remove(file)
        forgotten.append(True)
        return done

    monkeypatch.setattr(module, name, forget_after)
    here = RoundContext.of(site.services, site.rounds._encoders, site.number)
    with pytest.raises(Stopped):
        LabelReview().run(here, lambda: bool(forgotten))
    assert len(forgotten) == 1
    assert site.store.studies.record(site.number, "review") == {}
    assert files(site) == []


def test_publishing_makes_way_for_a_round(
    site: Site, monkeypatch: pytest.MonkeyPatch, training: list[Any]
) -> None:
    monkeypatch.setattr(review_predictions, "AT_ONCE", 2)
    here = RoundContext.of(site.services, site.rounds._encoders, site.number)
    with pytest.raises(Stopped):
        LabelReview().run(here, lambda: bool(reviewed(site)))
    assert len(reviewed(site)) == 2
    assert due(site) == [(site.number, "review")]
    trained = len(training)
    study(site)
    assert len(training) == trained, "the folds had ended"
    assert len(reviewed(site)) == len(LABELLED)
    assert_each_task_once(site)


def test_a_label_that_comes_in_between_keeps_the_finished_folds(
    site: Site, monkeypatch: pytest.MonkeyPatch, training: list[Any]
) -> None:
    stop_after(2, site, monkeypatch)
    study(site)
    first = files(site)
    assert len(first) == 2
    add_scan(site)
    site.label(5)
    site.refresh()
    trained = len(training)
    study(site)
    assert len(training) == trained + review.FOLDS - 2
    assert set(first) < set(files(site))
    assert {scan.task for scan in listed(site)} == {site.tasks[row] for row in LABELLED}


def test_a_review_begins_anew_once_few_of_its_scans_are_labelled(
    site: Site, monkeypatch: pytest.MonkeyPatch, training: list[Any]
) -> None:
    stop_after(2, site, monkeypatch)
    study(site)
    plan = review_list.read(site.store, site.number).plan
    assert plan is not None
    with site.store.session() as session:
        session.execute(sa.delete(Annotation).where(Annotation.task_id == site.tasks[0]))
    here = RoundContext.of(site.services, site.rounds._encoders, site.number)
    monkeypatch.setattr(review_list, "LEAST_GROUPS", len(LABELLED) - 1)
    assert label_review._may_go_on(here, plan)
    monkeypatch.setattr(review_list, "LEAST_GROUPS", len(LABELLED))
    assert not label_review._may_go_on(here, plan)


def test_a_scan_of_a_finished_fold_leaves_the_review_with_its_label(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(review.FOLDS - 1, site, monkeypatch)
    study(site)
    of_project = site.services.files(site.number)
    gone = review_files.scans(of_project, files(site)[0])
    assert gone
    with site.store.session() as session:
        session.execute(sa.delete(Annotation).where(Annotation.task_id == gone[0].task))
    monkeypatch.setattr(review_list, "LEAST_GROUPS", len(LABELLED) - 1)
    here = RoundContext.of(site.services, site.rounds._encoders, site.number)
    LabelReview().run(here, lambda: False)
    reviewed = {scan.task for scan in review_list.read(site.store, site.number).scans}
    assert reviewed == {site.tasks[row] for row in LABELLED} - {gone[0].task}


def test_no_network_learns_from_the_group_of_a_scan_that_it_judges(
    site: Site, monkeypatch: pytest.MonkeyPatch, training: list[Any]
) -> None:
    stop_after(2, site, monkeypatch)
    study(site)
    for row in LABELLED[1:3]:  # two scans turn out to be one patient's
        site.store.scans.update(site.number, site.tasks[row], group="a patient")
    here = RoundContext.of(site.services, site.rounds._encoders, site.number)
    assert len(set(here.ledger.groups.values())) < len(site.tasks)
    LabelReview().run(here, lambda: False)
    for labelled, held in training:
        groups = np.array(labelled.groups)
        assert not {*groups[held]} & {*groups[~held]}


def test_a_stopped_review_keeps_its_folds_and_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, training: list[Any]
) -> None:
    stop_after(2, site, monkeypatch)
    study(site)
    assert (len(training), len(files(site)), listed(site)) == (3, 2, [])
    assert due(site) == [], "a refresh waits"
    site.refresh()
    assert due(site) == [(site.number, "review")], "making way is no failure"
    study(site)
    assert len(training) == 3 + 3
    assert len(listed(site)) == 5


def test_a_review_that_fails_is_tried_twice_under_one_queue(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise LabelStudioError("Label Studio is full.", "Empty it.")

    monkeypatch.setattr(review_predictions, "publish", broken)
    study(site)
    assert due(site) == [(site.number, "review")]
    study(site)
    assert due(site) == []
    assert (site.project.step, site.project.problem) == ("", "")


def test_a_review_that_kills_its_workers_waits_for_the_next_queue(site: Site) -> None:
    idle_studies.give_up(site.store, site.number, "review")
    assert due(site) == []


@pytest.mark.parametrize("options", [{"review": False}, {"paused": True}])
def test_a_review_can_be_turned_off(site: Site, options: dict[str, Any]) -> None:
    site.entry["extra_params"] |= options
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert due(site) == []


def test_few_groups_are_not_reviewed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    project = site.project
    here = RoundContext.of(site.services, site.rounds._encoders, project.id)
    groups = dict.fromkeys(here.ledger.groups, 0)
    monkeypatch.setattr(ledger.Ledger, "groups", groups)
    study(site)
    assert (listed(site), files(site), due(site)) == ([], [], [])


def test_the_worker_queues_a_study_when_no_refresh_waits(site: Site) -> None:
    site.clock.advance(1)
    assert main.enqueue_study(site.rounds) == ""
    [found] = [one for one in DBOS.list_workflows() if one.name.endswith("study")]
    DBOS.retrieve_workflow(found.workflow_id).get_result()
    assert len(listed(site)) == 5
