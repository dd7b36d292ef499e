from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from dbos import DBOS

from backend.rounds.idle import refinement
from backend.rounds.models.learner import Learner
from backend.storage import artifacts
from backend.storage.ledger import read
from backend.storage.tables import Model, Publication
from backend.web.project_page import sentences, views
from backend.web.project_page.history import History
from backend.worker import main
from model.ensemble import Ensemble
from model.refinement import Refinement
from model.registry import PARTS, QUICK, TRAINING_RULES
from tests.backend.site import OPTIONS, TINY, Site, assert_each_task_once, refreshes, wait_for

PUBLISH = "backend.label_studio.publisher.Publisher.publish"


@pytest.fixture(autouse=True)
def _ready(site: Site) -> None:
    """Two labels and a live model of a round; a refinement is due."""
    site.entry["extra_params"] = {**OPTIONS, "refine": True, "prelabel_min_dice": 0.0}
    site.label(0, 1)
    site.refresh()


def refine(site: Site) -> None:
    site.clock.advance(1)
    DBOS.start_workflow(site.rounds.refine, site.number).get_result()
    site.clock.advance(1)


def live(site: Site) -> tuple[Publication, Model]:
    version = site.store.publications.get(site.number, site.project.live_version)
    assert version is not None
    model = site.store.publications.model(site.number, version.model_key)
    assert model is not None
    return version, model


def newest(site: Site) -> Model:
    model = site.store.publications.newest_model(site.number)
    assert model is not None
    return model


def loaded(site: Site) -> Any:
    return site.rounds._here(site.number).learner.load(live(site)[1].key)


def test_a_refined_model_goes_live_with_a_queue_of_its_own(site: Site) -> None:
    _, base = live(site)
    assert refinement.due(site.store) == [site.number]
    refine(site)
    version, model = live(site)
    assert model.quality.refined_from == base.key
    assert model.quality.rules == TRAINING_RULES
    assert model.trained_on == base.trained_on
    assert isinstance(loaded(site), Ensemble)
    assert site.versions == ["attention-unet r0001", "attention-unet r0002"]
    assert sorted(site.queue) == sorted(set(site.tasks[2:]))
    assert_each_task_once(site)
    assert version.labels == 2
    project = site.project
    assert (project.step, project.progress, project.problem) == ("", {}, "")
    last = site.store.rounds.all(site.number)[-1]
    assert last.record.version == version.name
    assert refinement.due(site.store) == [], "the same labels are refined once"


@pytest.mark.slow
def test_the_page_says_that_the_model_is_refined(site: Site) -> None:
    state = views.status(site.store, site.services.artifacts, site.number)
    assert state["refinement"] is None
    refine(site)
    state = views.status(site.store, site.services.artifacts, site.number)
    assert state["refinement"] == {"recipes": ["quick"] * 3, "from": None, "to": None}
    assert "the model is refined (3 networks: quick, quick, quick)" in sentences.quality(state)
    state["refinement"] |= {"from": 0.71, "to": 0.78}
    assert "is 0.78 with the best recipe and 0.71 with that of a round" in sentences.quality(state)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"refine": False}, {"refine": True, "paused": True}])
def test_refinement_can_be_turned_off(site: Site, options: dict[str, Any]) -> None:
    site.entry["extra_params"] = {**OPTIONS, **options}
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert refinement.due(site.store) == []


@pytest.mark.slow
def test_nothing_is_refined_while_a_refresh_waits_or_a_version_is_pinned(site: Site) -> None:
    site.store.projects.request_refresh(site.number)
    assert refinement.due(site.store) == []
    site.refresh()
    assert refinement.due(site.store) == [site.number]
    site.store.publications.pin(site.number, site.project.live_version)
    assert refinement.due(site.store) == []


def test_a_training_makes_way_for_a_request_and_may_begin_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site.project.live_version
    monkeypatch.setattr(refinement, "POLL_SECONDS", 0.0)
    examples = Learner.examples

    def asked(self: Learner, *given: Any) -> Any:
        site.store.projects.request_refresh(site.number)
        return examples(self, *given)

    monkeypatch.setattr(Learner, "examples", asked)
    refine(site)
    monkeypatch.setattr(Learner, "examples", examples)
    assert site.project.live_version == before
    assert (site.project.step, site.project.progress) == ("", {})
    _, base = live(site)
    assert (base.quality.settled, base.quality.refinement_failures) == (False, 0)
    site.refresh()
    assert refinement.due(site.store) == [site.number]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["score", "draft"])
def test_a_refined_model_that_had_to_wait_is_published_later(
    site: Site, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site.project.live_version
    monkeypatch.setattr(refinement, "POLL_SECONDS", 0.0)
    name = {"score": "judge", "draft": "predict"}[step]
    work: Callable[..., Any] = getattr(Learner, name)
    calls = []

    def asked(self: Learner, *given: Any) -> Any:
        calls.append(given)
        if len(calls) > (step == "draft"):  # scoring predicts first
            site.store.projects.request_refresh(site.number)
        return work(self, *given)

    monkeypatch.setattr(Learner, name, asked)
    monkeypatch.setattr(refinement, "SCORED_AT_ONCE", 1)
    refine(site)
    monkeypatch.setattr(Learner, name, work)
    monkeypatch.setattr(refinement, "SCORED_AT_ONCE", 8)
    assert site.project.live_version == before
    assert site.store.rounds.open(site.number) == 0
    site.refresh()
    assert site.project.live_version == before
    assert refinement.due(site.store) == [site.number]
    refine(site)
    assert live(site)[1].quality.refined_from
    assert refinement.due(site.store) == []


@pytest.mark.slow
def test_a_refined_model_draws_on_while_few_labels_are_new(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    refine(site)
    version, refined = live(site)
    drawn: list[list[int]] = []
    predict = Learner.predict

    def counted(self: Learner, key: str, tasks: Any) -> Any:
        if key == refined.key:
            drawn.append([task for task, _ in tasks])
        return predict(self, key, tasks)

    monkeypatch.setattr(Learner, "predict", counted)
    site.label(2)
    site.refresh()
    next_version, drawing = live(site)
    assert next_version.name != version.name
    assert drawing.key == refined.key
    assert drawn == [[]], "its masks are those that it drew before"
    last = newest(site)
    assert last.trained_on == site.tasks[:3], "the round has trained on all labels"
    assert refinement.due(site.store) == [site.number]
    site.label(3, 4)
    site.refresh()
    assert live(site)[1].quality.refined_from == "", "too many labels are new to it"


@pytest.mark.slow
def test_rounds_train_with_the_recipe_that_a_refinement_found_best(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = replace(TINY, adapt=True)
    monkeypatch.setattr("backend.rounds.models.learner.train_config", lambda *_: able)
    site.label(2)
    site.refresh()
    base = newest(site)
    compared = Refinement(
        Ensemble(loaded(site).members), (PARTS,), {QUICK: 0.2, PARTS: 0.5}, best=PARTS
    )
    monkeypatch.setattr("model.refinement.refine", lambda *_, **__: compared)
    refine(site)
    assert live(site)[1].quality.best_recipe == PARTS

    site.label(3)
    site.refresh()

    assert live(site)[1].quality.refined_from == base.key, "it draws on: its labels are unchanged"
    model = newest(site)
    assert model.quality.recipes == [PARTS]
    learner = site.rounds._here(site.number).learner
    assert learner.load(model.key).config.crop == able.image_size
    said = sentences.refined({"refinement": None, "recipe": model.quality.recipes[0]})
    assert said == "trained with the recipe parts of scans, which a refinement found better"

    site.entry["extra_params"] = {**OPTIONS, "refine": False}
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert newest(site).quality.recipes == []


@pytest.mark.slow
def test_a_refined_model_whose_label_was_corrected_draws_no_more(site: Site) -> None:
    refine(site)
    ledger = read(site.store, site.number)
    [label] = ledger.usable[site.tasks[0]]
    site.fake.change_annotation(label.id, result=[])
    site.store.projects.request_refresh(site.number)
    site.refresh()
    assert live(site)[1].quality.refined_from == ""


@pytest.mark.slow
def test_a_model_that_validation_refuses_is_not_published_and_not_trained_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site.project.live_version
    monkeypatch.setattr(Learner, "gate", lambda self, ledger, key, live, *_: live)
    refine(site)
    assert site.project.live_version == before
    assert refinement.due(site.store) == []


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["model.refinement.refine", PUBLISH])
def test_a_refinement_that_fails_is_tried_twice_and_troubles_no_round(
    site: Site, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(broken, fails)
    for _ in range(refinement.MOST_FAILURES):
        assert refinement.due(site.store) == [site.number]
        refine(site)
    assert refinement.due(site.store) == []
    assert site.project.problem == ""
    assert site.store.rounds.open(site.number) == 0
    assert "a refinement failed unexpectedly" in caplog.text


@pytest.mark.slow
def test_when_every_scan_is_labelled_nothing_is_refined_and_no_round_made(site: Site) -> None:
    site.label(2, 3, 4, 5)
    site.refresh()
    rounds = len(site.store.rounds.all(site.number))
    for _ in range(2):
        refine(site)
    assert refinement.due(site.store) == []
    assert len(site.store.rounds.all(site.number)) == rounds


@pytest.mark.slow
def test_a_model_of_labels_that_changed_is_settled_at_once(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "refine": True, "retrain_after": 5}
    [label] = read(site.store, site.number).usable[site.tasks[0]]
    site.fake.change_annotation(label.id, result=[])
    site.store.projects.request_refresh(site.number)
    site.refresh()
    refine(site)
    assert refinement.due(site.store) == []


@pytest.mark.slow
def test_a_ready_model_passes_the_gate_before_it_is_published(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be killed between the training and the gate."""
    gate = Learner.gate

    def killed(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Learner, "gate", killed)
    refine(site)
    asked: list[str] = []

    def refuses(self: Learner, ledger: Any, key: str, live: str, *_: Any) -> str:
        asked.append(key)
        return live

    monkeypatch.setattr(Learner, "gate", refuses)
    before = site.project.live_version
    refine(site)
    monkeypatch.setattr(Learner, "gate", gate)
    [key] = asked
    ready = site.store.publications.model(site.number, key)
    assert ready is not None
    assert ready.quality.refined_from
    assert site.project.live_version == before


@pytest.mark.slow
def test_a_ready_model_whose_weights_are_lost_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site.project.live_version
    monkeypatch.setattr(PUBLISH, lambda *_: 1 / 0)
    refine(site)
    monkeypatch.undo()
    last = newest(site)
    site.services.files(site.number).remove(artifacts.weights_name(last.key))
    refine(site)
    assert refinement.due(site.store) == []
    assert site.project.live_version == before


@pytest.mark.slow
def test_labels_that_wait_for_a_round_wait_on_after_a_refinement(site: Site) -> None:
    site.entry["extra_params"] = {**OPTIONS, "refine": True, "retrain_after": 2}
    site.store.projects.request_refresh(site.number)
    site.refresh()
    site.label(2)
    site.refresh()
    refine(site)
    version, model = live(site)
    assert model.quality.refined_from
    assert version.labels == 2
    site.label(3)
    site.refresh()
    last = newest(site)
    assert len(last.trained_on) == 4, "two labels changed: a round is due"


@pytest.mark.slow
def test_a_refined_version_was_not_made_while_pinned(site: Site) -> None:
    refine(site)
    files = site.services.files(site.number)
    [last, *_] = History(site.store, site.project, files).versions()
    assert last["name"] == site.project.live_version
    assert not last["went_back"]


@pytest.mark.slow
def test_a_project_that_fails_ends_no_refinement_of_another(site: Site) -> None:
    watch = refinement.StopSignal(site.store, site.number)
    site.store.projects.request_refresh(99, connected=True)
    site.store.projects.update(99, failures=3, not_before=0.0)
    assert site.store.projects.due() == [99]
    assert not watch()
    site.store.projects.update(99, failures=0)
    assert refinement.StopSignal(site.store, site.number)()


@pytest.mark.slow
def test_the_worker_queues_a_refinement_only_beside_no_refresh(site: Site) -> None:
    site.label(2)
    site.clock.advance(10)
    assert main.enqueue_due(site.rounds) == ""
    assert main.enqueue_refinements(site.rounds) == ""
    wait_for(lambda: site.project.completed == site.project.requested)
    wait_for(lambda: not [one for one in refreshes() if one.status in {"PENDING", "ENQUEUED"}])
    assert not [one for one in DBOS.list_workflows() if one.name.endswith("refine")]
    assert main.enqueue_refinements(site.rounds) == ""
    assert main.enqueue_refinements(site.rounds) == "", "it has its place in the queue already"
    wait_for(lambda: live(site)[1].quality.refined_from)
