"""Whether labelling can stop: from the models of rounds to the notice that people get."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from backend.options import ProjectOptions
from backend.rounds import sync
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.selection import Selector
from backend.rounds.services import Services
from backend.rounds.stopping import Signs, store_stop_signs
from backend.storage.records import ModelQuality
from backend.storage.tables import DraftScore, Model
from backend.worker.notices import Notifier
from tests.backend.conftest import Clock, drawn, the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

BATCH, HELD_OUT = 10, 24
SCANS = 60  # the first HELD_OUT of them are held out
LABELS = range(20, 101, BATCH)


class Labelling:
    """A project whose models follow a curve that flattens, judged after every batch."""

    def __init__(self, services: Services, clock: Clock, number: int, tasks: list[int]) -> None:
        self.tasks = tasks
        self.services, self.store = services, services.store
        self.clock, self.number = clock, number
        self.store.projects.update(number, label_config=CONFIG)
        self.chance = np.random.default_rng(0)

    def train(self, labels: int, *, settled: bool = True) -> None:
        """Plant the model of a round, as its gate and its refinement would leave it."""
        self.clock.advance(60)
        hard = np.linspace(-0.03, 0.03, HELD_OUT)
        dice = 0.95 - 4.0 * labels**-1.5 + hard + self.chance.normal(0, 0.001)
        twin = np.full(20, 0.97)
        quality = ModelQuality(
            held_out={"dice": dict(zip(self.tasks[:HELD_OUT], dice.tolist(), strict=True))},
            compared_with="before" if settled else "",
            agreement_before=(twin + self.chance.normal(0, 0.002, 20)).tolist() if settled else [],
            agreement_twin=twin.tolist() if settled else [],
        )
        self.store.publications.save_model(
            Model(
                project_id=self.number,
                key=f"{labels}",
                labels=labels,
                classes=["Lung"],
                created_at=self.clock(),
                quality=quality,
            )
        )

    @property
    def here(self) -> RoundContext:
        return RoundContext.of(self.services, LoadedEncoders(self.services.settings), self.number)

    def judge(self) -> bool:
        store_stop_signs(self.here)
        found = self.store.annotators.figures(self.number).stopping
        assert found is not None
        json.dumps(found, allow_nan=False)
        return bool(found["stop"])


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The cluster of every scan."""
    of: dict[int, int] = {}
    monkeypatch.setattr(Selector, "clusters", lambda self: of)
    return of


@pytest.fixture
def labelling(
    services: Services,
    fake: FakeLabelStudio,
    clock: Clock,
    project_id: int,
    clusters: dict[int, int],
) -> Labelling:
    tasks = [fake.add_task(project_id) for _ in range(SCANS)]
    clusters.update(dict.fromkeys(tasks, 0))
    for task in tasks[: HELD_OUT + 10]:
        fake.annotate(task, drawn())
    sync.sync(services.studio, services.store, the(services.store, project_id))
    return Labelling(services, clock, project_id, tasks)


@pytest.fixture
def told(labelling: Labelling) -> Iterator[tuple[Notifier, list[str]]]:
    """The notifier of the project, and the events that it told."""
    events: list[str] = []

    def receive(request: httpx.Request) -> httpx.Response:
        events.append(json.loads(request.content)["event"])
        return httpx.Response(200)

    known = labelling.services.settings.model_copy(
        update={"notify_url": SecretStr("https://hooks.example/secret")}
    )
    with httpx.Client(transport=httpx.MockTransport(receive)) as client:
        yield Notifier(known, labelling.store, client), events


def test_a_project_that_flattens_ends_with_one_notice(
    labelling: Labelling, told: tuple[Notifier, list[str]]
) -> None:
    notifier, events = told
    verdicts = []
    for labels in LABELS:
        labelling.train(labels)
        verdicts.append(labelling.judge())
        notifier.look()
    assert not any(verdicts[:5]), "the sign needs five models, two batches in a row"
    assert verdicts[-1]
    assert events == ["can-stop"]


def test_a_sign_in_doubt_does_not_tell_people_again(
    labelling: Labelling, told: tuple[Notifier, list[str]]
) -> None:
    notifier, events = told
    for labels in [*LABELS, 110, 120, 130]:
        labelling.train(labels, settled=labels != 110)
        labelling.judge()
        notifier.look()
    assert events == ["can-stop"]


def test_nothing_stops_while_a_large_cluster_has_no_label(
    labelling: Labelling, clusters: dict[int, int]
) -> None:
    for task in list(clusters)[-2:]:
        clusters[task] = 1
    for labels in LABELS:
        labelling.train(labels)
        assert not labelling.judge()
    assert Signs(labelling.here).unlabelled_clusters == 1
    assert the(labelling.store, labelling.number).can_stop_since == 0.0


def test_a_cluster_of_skipped_scans_forbids_nothing(
    labelling: Labelling, fake: FakeLabelStudio, clusters: dict[int, int]
) -> None:
    for task in list(clusters)[-2:]:
        clusters[task] = 1
        fake.annotate(task, skip=True)
    services = labelling.services
    sync.sync(services.studio, services.store, the(services.store, labelling.number))
    assert Signs(labelling.here).unlabelled_clusters == 0


def test_an_error_in_the_signs_ends_no_round(
    labelling: Labelling, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(signs: Signs) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Signs, "written", fail)
    store_stop_signs(labelling.here)
    assert "could not be updated" in caplog.text


def test_nothing_stops_before_the_masks_were_compared_with_a_twin(labelling: Labelling) -> None:
    for labels in LABELS:
        labelling.train(labels, settled=False)
        assert not labelling.judge()
    signs = Signs(labelling.here)
    assert signs.no_gain
    assert not signs.no_change


def test_refined_models_and_models_of_other_labels_are_no_points(labelling: Labelling) -> None:
    for labels in LABELS:
        labelling.train(labels)
    models = labelling.store.publications.models(labelling.number)
    models[0].classes = ["Heart"]
    models[1].quality = models[1].quality.changed(refined_from="0")
    for model in models[:2]:
        labelling.store.publications.save_model(model)
    assert [model.labels for model in Signs(labelling.here).models] == [*LABELS][2:]


def test_only_models_of_the_curve_are_read(
    labelling: Labelling, monkeypatch: pytest.MonkeyPatch
) -> None:
    for labels in range(20, 101):
        labelling.train(labels)
    read: list[str] = []
    validate = ModelQuality.model_validate

    def noted(value: object) -> ModelQuality:
        found = validate(value)
        read.append(str(len(found.held_out_dice)))
        return found

    monkeypatch.setattr(ModelQuality, "model_validate", noted)
    labelling.judge()
    assert len(read) == len(LABELS)


@pytest.mark.parametrize(("control", "stops"), [(True, True), (False, False)])
def test_good_drafts_stop_if_their_scans_were_picked_at_random(
    labelling: Labelling, control: bool, stops: bool
) -> None:
    for task in labelling.tasks[:30]:
        score = DraftScore(
            project_id=labelling.number,
            task_id=task,
            version="v",
            created_at="2026-01-01",
            dice=0.97 + 0.001 * (task % 3),
            control=control,
        )
        labelling.store.labels.save_draft_score(score)
    assert labelling.judge() == stops


def test_the_worst_group_and_label_are_named(
    labelling: Labelling, clusters: dict[int, int]
) -> None:
    for task in labelling.tasks[:5]:
        clusters[task] = 1  # the hardest scans come first
    labelling.train(20)
    [model] = labelling.store.publications.models(labelling.number)
    model.quality = model.quality.changed(by_label={"dice": {"Lung": 0.9, "Heart": 0.7}})
    labelling.store.publications.save_model(model)
    found = Signs(labelling.here).written()
    assert (found["worst"]["cluster"], found["worst"]["scans"]) == (1, 5)
    assert found["worst_label"] == {"label": "Heart", "dice": 0.7}


def test_the_options_make_no_new_queue() -> None:
    assert ProjectOptions(enough=2, draft_target=0.8).deciding == ProjectOptions().deciding
