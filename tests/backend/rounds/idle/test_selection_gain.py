"""The study of what selection gains: which labels it compares, when, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from backend.label_studio import labels
from backend.rounds import sync
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.idle.selection_gain import SelectionGain
from backend.rounds.services import Services
from backend.storage import records
from backend.storage.labels import Labels
from backend.storage.records import SELECTION_GAIN, QueueRecord, SelectionGainRecord
from backend.storage.tables import Annotation, Publication
from model import phantoms, selection_gain
from model.fitted import TrainConfig
from model.refinement import Stopped
from model.selection_gain import LEAST_LABELS, REPEATS
from tests.backend.conftest import Clock, the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

SIZE = 32
TINY = TrainConfig(
    "attention-unet/tu-test_resnet", SIZE, classes=1, steps=1, batch_size=2, learning_rate=1e-3
)
PARSED = labels.parse(CONFIG)


class Lab:
    """A project whose queues hold picks of a rule and random picks, and its study."""

    def __init__(
        self, services: Services, fake: FakeLabelStudio, clock: Clock, number: int
    ) -> None:
        self.services, self.fake, self.clock, self.number = services, fake, clock, number
        self.store, self.rounds, self.series = services.store, 0, 0
        [self.entry] = fake.entries.values()
        self.entry["extra_params"] = {"random_fraction": 0.5, "batch_size": 4}
        self.study = SelectionGain()

    def scans(self, count: int) -> list[int]:
        """Add scans that are unlike all others."""
        self.series += 1
        found = phantoms.generate(count, size=SIZE, seed=self.series)
        tasks = [self.fake.add_task(self.number, one.image) for one in found]
        self.masks = dict(zip(tasks, (one.mask for one in found), strict=True))
        self.sync()
        for task in tasks:
            self.store.scans.update(
                self.number, task, height=SIZE, width=SIZE, pixels=f"scan {task}"
            )
        return tasks

    def publish(
        self, chosen: Sequence[int], control: Sequence[int] = (), beyond: Sequence[int] = ()
    ) -> None:
        """Make a queue live whose picks are these scans, with others behind them."""
        self.rounds += 1
        terms = {task: {"control": task in control} for task in (*chosen, *control, *beyond)}
        queue = QueueRecord(
            order=list(terms),
            phase="acquisition",
            options={"batch_size": len(chosen) + len(control)},
            scans=terms,
        )
        records.write_queue(self.services.files(self.number), self.rounds, queue)
        name = f"r{self.rounds}"
        self.clock.advance(10)
        self.store.publications.save(
            Publication(project_id=self.number, name=name, round=self.rounds, attempt=1)
        )
        self.store.publications.go_live(self.number, name)
        self.clock.advance(10)

    def label(
        self,
        *tasks: int,
        held_out: bool | None = False,
        seconds: float | None = None,
        empty: bool = False,
    ) -> None:
        for task in tasks:
            mask = self.masks[task]
            result = [] if empty else labels.regions(mask, PARSED, scores=[1.0])
            self.fake.annotate(task, result, seconds=seconds)
            self.clock.advance(1)
        self.sync()
        if held_out is not None:
            self.store.labels.save_splits(self.number, dict.fromkeys(tasks, held_out))

    def sync(self) -> None:
        """Read what changed in Label Studio, as a refresh does."""
        self.store.projects.request_refresh(self.number)
        project = the(self.store, self.number)
        sync.sync(self.services.studio, self.store, project)
        self.store.projects.update(self.number, completed=project.requested)

    @property
    def here(self) -> RoundContext:
        return RoundContext.of(self.services, LoadedEncoders(self.services.settings), self.number)

    def keep(self, study: SelectionGainRecord) -> None:
        self.store.studies.save(self.number, SELECTION_GAIN, "", study.written())

    def run(self, stop: Callable[[], bool] = lambda: False) -> SelectionGainRecord:
        self.study.run(self.here, stop)
        return self.result

    @property
    def result(self) -> SelectionGainRecord:
        record = self.store.studies.record(self.number, SELECTION_GAIN)
        assert record
        return SelectionGainRecord.model_validate(record)


@pytest.fixture
def lab(
    services: Services,
    fake: FakeLabelStudio,
    clock: Clock,
    project_id: int,
    monkeypatch: pytest.MonkeyPatch,
) -> Lab:
    monkeypatch.setattr("backend.rounds.models.learner.train_config", lambda *_: TINY)
    return Lab(services, fake, clock, project_id)


@pytest.fixture
def ready(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A project with just enough labels: two a arm, two held out."""
    monkeypatch.setattr(selection_gain, "LEAST_LABELS", 2)
    monkeypatch.setattr(selection_gain, "LEAST_HELD_OUT", 2)
    tasks = lab.scans(6)
    lab.publish(tasks[:2], tasks[2:4])
    lab.label(*tasks[:4])
    lab.label(*tasks[4:], held_out=True)
    return lab


# -- which labels form the arms -------------------------------------------------------------------


def test_picks_and_random_picks_of_the_queue_form_the_arms(lab: Lab) -> None:
    a, b, c, d, beyond = lab.scans(5)
    lab.publish([a, b], [c, d], [beyond])
    lab.label(d, a, beyond, c)
    found = lab.run()
    assert (found.chosen, found.control) == ([a], [d, c]), "in the order of the labels"
    assert found.gain is None


def test_the_queue_counts_that_was_live_when_the_scan_was_opened(lab: Lab) -> None:
    a, b = lab.scans(2)
    lab.publish([a], [b])
    lab.publish([b], [a])
    lab.label(b, seconds=15)  # the second queue is live since 10 s
    lab.label(a)
    found = lab.run()
    assert (found.chosen, found.control) == ([], [b, a])


def test_a_label_from_before_the_first_queue_or_without_a_side_is_in_no_arm(lab: Lab) -> None:
    early, new = lab.scans(2)
    lab.label(early)
    lab.publish([early, new])
    lab.label(new, held_out=None)
    found = lab.run()
    assert (found.chosen, found.control, found.held_out) == ([], [], [])


def test_too_few_labels_are_counted_and_nothing_is_trained(lab: Lab) -> None:
    tasks = lab.scans(LEAST_LABELS + 4)
    lab.publish(tasks[3:], tasks[:3])
    lab.label(*tasks)
    found = lab.run()
    assert (len(found.chosen), len(found.control)) == (LEAST_LABELS, 3)
    assert (found.groups, found.differences, found.gain) == (0, [], None)


def test_slices_of_one_patient_are_one_group(lab: Lab) -> None:
    tasks = lab.scans(3)
    lab.label(*tasks, held_out=True)
    for task in tasks[:2]:
        lab.store.scans.update(lab.number, task, pixels="the same")
    assert lab.run().groups == 2


def test_a_study_depends_on_the_rules_of_training(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.label(*lab.scans(2))
    before = lab.run().digest
    assert lab.run().digest == before
    monkeypatch.setattr("backend.rounds.idle.selection_gain.TRAINING_RULES", 99)
    assert lab.run().digest != before


# -- the comparison -------------------------------------------------------------------------------


def test_the_result_comes_from_all_repeats_and_is_kept(ready: Lab) -> None:
    found = ready.run()
    assert (len(found.chosen), len(found.control), len(found.held_out)) == (2, 2, 2)
    assert [len(of) for of in found.differences] == [2] * REPEATS
    assert found.gain is not None
    assert found.gain["low"] <= found.gain["value"] <= found.gain["high"]
    assert found.labels == ready.here.ledger.label_keys
    assert not ready.study.due(ready.here)


@pytest.mark.slow
def test_labels_that_teach_more_gain(ready: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = replace(TINY, steps=40)
    monkeypatch.setattr("backend.rounds.models.learner.train_config", lambda *_: longer)
    tasks = ready.scans(8)
    ready.publish(tasks[:4], tasks[4:])
    ready.label(*tasks[4:], empty=True)
    ready.label(*tasks[:4])
    ready.store.labels.save_splits(
        ready.number, dict.fromkeys(ready.here.ledger.usable.keys() - set(tasks), True)
    )
    gain = ready.run().gain
    assert gain is not None
    assert gain["low"] > 0, "the control arm taught that there is nothing to draw"


@pytest.mark.slow
def test_a_study_that_makes_way_goes_on_where_it_ended(ready: Lab) -> None:
    whole = ready.run()
    half = whole.changed(differences=whole.differences[:3], gain=None)
    ready.keep(half)
    with pytest.raises(Stopped):
        ready.run(stop=lambda: True)
    assert ready.result.differences == whole.differences[:3]
    assert ready.study.due(ready.here)
    assert ready.run() == whole, "the repeats are those of a study that was never stopped"


@pytest.mark.slow
def test_a_new_label_does_not_disturb_a_study_under_way(ready: Lab) -> None:
    begun = ready.run().changed(differences=[[0.5, 0.5]], gain=None)
    ready.keep(begun)
    ready.label(*ready.scans(1))
    assert ready.run().differences[0] == [0.5, 0.5]


@pytest.mark.slow
def test_a_corrected_label_begins_a_study_under_way_anew(ready: Lab) -> None:
    whole = ready.run()
    begun = whole.changed(differences=[[0.5, 0.5]], gain=None)
    ready.keep(begun)
    label = ready.here.ledger.usable[whole.held_out[0]][0]
    with ready.store.session() as session:
        session.get_one(Annotation, (ready.number, label.id)).updated_at = "later"
    assert ready.run().differences == whole.differences


# -- when it is due -------------------------------------------------------------------------------


def test_it_is_due_once_some_scans_are_drawn_at_random(lab: Lab) -> None:
    [task] = lab.scans(1)
    assert not lab.study.due(lab.here), "there is no label"
    lab.label(task)
    assert lab.study.due(lab.here)
    for options in ({"random_fraction": 0.0}, {"random_fraction": 0.5, "paused": True}):
        lab.entry["extra_params"] = options
        lab.sync()
        assert not lab.study.due(lab.here)


def test_it_is_due_again_after_enough_changed_labels(lab: Lab) -> None:
    tasks = lab.scans(9)
    lab.label(*tasks[:4])
    lab.run()
    lab.label(*tasks[4:8])
    assert not lab.study.due(lab.here), "4 changed labels"
    lab.label(tasks[8])
    assert lab.study.due(lab.here)


def test_labels_are_read_once_after_a_refresh(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = lab.scans(6)
    lab.label(tasks[0])
    lab.run()
    read: list[int] = []
    stored = Labels.annotations

    def noted(self: Labels, project_id: int) -> list[Annotation]:
        read.append(project_id)
        return stored(self, project_id)

    monkeypatch.setattr(Labels, "annotations", noted)
    assert not any(lab.study.due(lab.here) for _ in range(3))
    assert len(read) == 1
    lab.label(*tasks[1:])
    read.clear()
    assert lab.study.due(lab.here)


def test_a_forgotten_project_has_no_result(lab: Lab) -> None:
    lab.scans(1)
    lab.run()
    assert lab.store.studies.digest(lab.number, SELECTION_GAIN)
    lab.store.projects.forget(lab.number)
    assert not lab.store.studies.record(lab.number, SELECTION_GAIN)
