from __future__ import annotations

import json
import logging
import math
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import ConfigError, ImageError, StorageError
from backend.label_studio import labels
from backend.options import ProjectOptions
from backend.rounds import sync
from backend.rounds.context import LoadedEncoders, RoundContext
from backend.rounds.drafts import drafting, prelabels
from backend.rounds.drafts.draft_quality import score_drafts
from backend.rounds.drafts.drafting import LiveDrafts
from backend.rounds.models.examples import UnreadableLabels
from backend.rounds.models.learner import Learner, learner_for, train_config
from backend.rounds.models.progress import Pace
from backend.rounds.models.time_box import ROUND_SECONDS
from backend.rounds.models.validation_scores import ScanScore, measured
from backend.rounds.services import Services
from backend.storage import artifacts, ledger
from backend.storage.records import ModelQuality
from backend.storage.store import Store
from backend.storage.tables import Model, Publication
from model import inference, masks, phantoms
from model.evaluation import METRICS
from model.fitted import TrainConfig
from model.recipes import LONGER
from model.training import Progress
from tests.backend.conftest import Clock, Region, drawn, the
from tests.backend.fake_label_studio import CONFIG, FakeLabelStudio

PARSED = labels.parse(CONFIG)
SIZE = 32
TINY = TrainConfig(
    "attention-unet/tu-test_resnet", SIZE, classes=1, steps=2, batch_size=2, learning_rate=1e-3
)


def ignore(progress: Progress) -> None:
    pass


class Lab:
    """A project with readable phantoms, synced, and its models."""

    def __init__(self, services: Services, fake: FakeLabelStudio, number: int) -> None:
        self.services, self.store, self.fake, self.number = services, services.store, fake, number
        self.phantoms = phantoms.generate(6, size=SIZE)
        self.tasks = [fake.add_task(number, phantom.image) for phantom in self.phantoms]

    def label(self, *rows: int, ground_truth: bool = False) -> list[int]:
        return [
            self.fake.annotate(
                self.tasks[row],
                labels.regions(self.phantoms[row].mask, PARSED, scores=[1.0]),
                ground_truth=ground_truth,
            )
            for row in rows
        ]

    def sync(self) -> ledger.Ledger:
        sync.sync(self.services.studio, self.store, the(self.store, self.number))
        for task in self.store.scans.all(self.number):
            self.store.scans.update(self.number, task.id, height=SIZE, width=SIZE)
        return ledger.read(self.store, self.number)

    @property
    def learner(self) -> Learner:
        learner = learner_for(self.services, the(self.store, self.number))
        return replace(learner, quick_config=TINY)

    def weights(self, key: str) -> Path:
        return self.services.folder(self.number) / artifacts.weights_name(key)

    def fit(self) -> str:
        now = self.sync()
        return self.learner.fit(now, list(now.usable), ignore)


@pytest.fixture
def lab(services: Services, fake: FakeLabelStudio, project_id: int) -> Lab:
    return Lab(services, fake, project_id)


# -- keys and training ----------------------------------------------------------------------------


def test_the_same_labels_are_the_same_model_and_are_not_trained_twice(lab: Lab) -> None:
    lab.label(0, 1)
    key = lab.fit()
    written = lab.weights(key).stat().st_mtime_ns
    assert lab.fit() == key
    assert lab.weights(key).stat().st_mtime_ns == written
    found = lab.store.publications.model(lab.number, key)
    assert found is not None
    assert found.labels == 2
    assert found.quality.train_seconds is not None


def test_a_model_whose_file_is_gone_is_trained_again(lab: Lab) -> None:
    lab.label(0, 1)
    key = lab.fit()
    lab.weights(key).unlink()
    assert lab.fit() == key
    assert lab.weights(key).exists()


def test_a_deleted_a_new_and_a_redrawn_label_each_make_another_model(lab: Lab) -> None:
    first, *_ = lab.label(0, 1)

    def key() -> str:
        now = lab.sync()
        return lab.learner.key(now, list(now.usable))

    keys = [key()]
    lab.fake.change_annotation(first, result=drawn(size=SIZE))
    keys.append(key())
    lab.label(2)
    keys.append(key())
    lab.fake.delete_annotation(first)
    keys.append(key())
    assert len(set(keys)) == 4


def test_another_picture_or_label_of_a_row_makes_another_model(lab: Lab) -> None:
    lab.label(0, 1)
    now = lab.sync()
    learner, ids = lab.learner, list(now.usable)
    swapped = replace(learner.config, rows={**learner.config.rows, "Left": 0})
    keys = {learner.key(now, ids), replace(learner, config=swapped).key(now, ids)}
    lab.fake.change_data(lab.tasks[0], image="/data/upload/9/other.png")
    keys.add(learner.key(lab.sync(), ids))
    assert len(keys) == 3


def test_another_way_of_training_or_set_of_labels_makes_another_model(lab: Lab) -> None:
    lab.label(0, 1)
    now = lab.sync()
    learner, ids = lab.learner, list(now.usable)
    keys = {
        learner.key(now, ids),
        replace(learner, quick_config=replace(TINY, steps=3)).key(now, ids),
        replace(learner, options=ProjectOptions(max_train_seconds=7)).key(now, ids),
        replace(learner, config=replace(PARSED, labels=("Heart",))).key(now, ids),
        learner.key(now, ids[:1]),
    }
    assert len(keys) == 5


def test_the_box_of_time_ends_a_training_with_a_model(lab: Lab) -> None:
    lab.label(0, 1)
    now = lab.sync()
    learner = replace(
        lab.learner,
        options=ProjectOptions(max_train_seconds=1e-9),
        quick_config=replace(TINY, steps=10_000),
    )
    key = learner.fit(now, list(now.usable), ignore)
    [member] = learner.load(key).members
    assert len(member.history) == 0


def test_progress_is_told_after_every_batch(lab: Lab) -> None:
    lab.label(0, 1)
    now = lab.sync()
    told: list[Progress] = []
    lab.learner.fit(now, list(now.usable), told.append)
    assert [(progress.step, progress.steps) for progress in told] == [(1, 2), (2, 2)]


@pytest.mark.parametrize("training", ["scratch", "warm"])
def test_small_regions_get_the_steps_that_the_last_round_had_time_for(
    lab: Lab, clock: Clock, training: Literal["scratch", "warm"]
) -> None:
    small = np.zeros((1, SIZE, SIZE), bool)
    small[0, :4, :4] = True
    for row in (0, 1, 2):
        lab.fake.annotate(lab.tasks[row], labels.regions(small, PARSED, scores=[1.0]))
    now = lab.sync()
    learner = replace(
        lab.learner,
        options=ProjectOptions(training=training),
        quick_config=replace(TINY, adapt=True),
    )
    told: list[Progress] = []
    first = learner.fit(now, lab.tasks[:2], told.append)
    assert told[-1].steps == TINY.steps, "the pace is unknown"

    base = lab.store.publications.model(lab.number, first)
    assert base is not None
    five = TINY.steps + 2
    base.quality = base.quality.changed(train_seconds=ROUND_SECONDS, steps=five)
    lab.store.publications.save_model(base)
    quick = ModelQuality(train_seconds=0.1, steps=1000, refined_from=first)
    clock.advance(1)
    learner.keep("refined", learner.load(first), base.trained_on, quick)
    second = learner.fit(now, lab.tasks[:3], told.append, first)
    assert told[-1].steps == five < LONGER * TINY.steps, (
        "the pace is that of the round, not of its refinement"
    )
    started = lab.store.publications.model(lab.number, second)
    assert started is not None
    assert started.quality.started_from == (first if training == "warm" else "")


def progress(step: int, loss: float = 0.51236, **values: Any) -> Progress:
    return Progress(step, steps=20, loss_tensor=torch.tensor(loss), steps_in_epoch=10, **values)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_out_of_the_progress(
    lab: Lab, clock: Clock, odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.sync()
    monkeypatch.setattr(Pace, "seconds_left", lambda *_: odd)
    lab.learner.reporter()(progress(1, loss=odd, dice=odd))
    stored = the(lab.store, lab.number).progress
    assert stored == {"epoch": 1, "epochs": 2, "batch": 1, "batches": 20}


def test_the_seconds_left_follow_from_the_pace_and_the_box_of_time(clock: Clock) -> None:
    pace, boxed = Pace(clock, 300), Pace(clock, 20)
    left = []
    for step in (1, 2, 3, 20):
        left.append((pace.seconds_left(progress(step)), boxed.seconds_left(progress(step))))
        clock.advance(3)
    assert left == [(None, None), (54, 17), (51, 14), (0, 0)]


def test_progress_is_stored_once_a_second_and_told_in_the_log_once_an_epoch(
    lab: Lab, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    lab.sync()
    report = lab.learner.reporter()
    seen = []
    with caplog.at_level(logging.INFO, logger="backend"):
        for step in range(1, 11):
            report(progress(step))
            clock.advance(0.4)
            seen.append(the(lab.store, lab.number).progress["batch"])
        report(progress(20, dice=0.87654))
    assert seen == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10]
    assert the(lab.store, lab.number).progress == {
        "epoch": 2,
        "epochs": 2,
        "batch": 20,
        "batches": 20,
        "loss": 0.5124,
        "dice": 0.8765,
        "seconds_left": 0,
    }
    assert caplog.messages == [
        "epoch 1 of 2: loss 0.512, about 4 s left",
        "epoch 2 of 2: loss 0.512, about 0 s left",
    ]


def test_a_labelled_scan_that_became_unreadable_is_said_and_left_out_of_the_next_round(
    lab: Lab,
) -> None:
    lab.label(0, 1, 2, 3)
    now = lab.sync()
    for row in (1, 3):
        lab.fake.files.pop(f"/data/upload/{lab.number}/{lab.tasks[row]}.png")
    with pytest.raises(UnreadableLabels, match="2 labelled scans can no longer be read") as caught:
        lab.learner.fit(now, list(now.usable), ignore)
    assert list(caught.value.broken) == [lab.tasks[1], lab.tasks[3]]  # all that are broken, at once
    for task_id, error in caught.value.broken.items():
        lab.store.scans.mark_unreadable(lab.number, task_id, str(error))
    now = ledger.read(lab.store, lab.number)
    assert list(now.usable) == [lab.tasks[0], lab.tasks[2]]
    found = list(lab.learner.examples(now, list(now.usable)))
    assert [example.task for example in found] == [lab.tasks[0], lab.tasks[2]]
    np.testing.assert_array_equal(found[0].mask, lab.phantoms[0].mask)


def test_a_damaged_model_is_said_and_trained_again(lab: Lab) -> None:
    lab.label(0, 1)
    now = lab.sync()
    key = lab.learner.fit(now, list(now.usable), ignore)
    lab.weights(key).write_bytes(b"not a model")
    with pytest.raises(StorageError, match="cannot be read"):
        lab.learner.load(key)
    assert lab.learner.fit(now, list(now.usable), ignore) == key
    lab.learner.load(key)


def test_what_several_people_drew_is_merged_by_majority(lab: Lab) -> None:
    for rows in (slice(0, 8), slice(4, 12), slice(6, 16)):
        lab.fake.annotate(lab.tasks[0], drawn(rows, size=SIZE))
    [found] = lab.sync().usable.values()
    mask = lab.learner.mask(found, (SIZE, SIZE))
    assert np.flatnonzero(mask[0].all(axis=1)).tolist() == [4, 5, 6, 7, 8, 9, 10, 11]


def test_another_merge_gives_another_mask_and_another_model(lab: Lab) -> None:
    for rows in (slice(0, 8), slice(0, 8), slice(0, 8), slice(4, 12), slice(20, 32)):
        lab.fake.annotate(lab.tasks[0], drawn(rows, size=SIZE))
    now = lab.sync()
    [found] = now.usable.values()
    options = lab.learner.options.model_copy(update={"merge": "staple"})
    other = replace(lab.learner, options=options)
    assert np.flatnonzero(other.mask(found, (SIZE, SIZE))[0].all(axis=1)).tolist() == [*range(8)]
    assert other.key(now, list(now.usable)) != lab.learner.key(now, list(now.usable))


def test_the_machine_and_the_project_decide_how_is_trained(services: Services) -> None:
    config = train_config(services.settings, ProjectOptions(image_size=64, seed=3), PARSED)
    assert (config.image_size, config.seed, config.classes, config.device) == (64, 3, 1, "cpu")


def test_weights_for_the_network_make_it_a_resnet50_and_their_content_another_model(
    lab: Lab, tmp_path: Path
) -> None:
    path = tmp_path / "ResNet50.pt"
    settings = lab.services.settings.model_copy(update={"network_weights": path})
    config = train_config(settings, ProjectOptions(), PARSED)
    assert (config.network, config.encoder_weights) == ("attention-unet/resnet50", str(path))
    lab.label(0, 1)
    now = lab.sync()
    keys = []
    for content in (b"one", b"other"):
        path.write_bytes(content)
        keys.append(replace(lab.learner, quick_config=config).key(now, list(now.usable)))
    assert len(set(keys)) == 2


def test_weights_that_are_none_are_said_with_the_mend(lab: Lab, tmp_path: Path) -> None:
    lab.label(0, 1)
    now = lab.sync()
    wrong = replace(
        TINY, network="attention-unet/resnet50", encoder_weights=str(tmp_path / "gone.pt")
    )
    with pytest.raises(ConfigError, match=r"no encoder weights at .*gone\.pt.*NETWORK_WEIGHTS"):
        replace(lab.learner, quick_config=wrong).fit(now, list(now.usable), ignore)


# -- going on from the live model -----------------------------------------------------------------


def warm_fit(lab: Lab, live: str, **changes: Any) -> str:
    """Train with option `training: warm` and return what the new model started from."""
    now = lab.sync()
    learner = replace(lab.learner, **{"options": ProjectOptions(training="warm")} | changes)
    key = learner.fit(now, list(now.usable), ignore, live)
    model = lab.store.publications.model(lab.number, key)
    assert model is not None
    assert key != live
    return model.quality.started_from


@pytest.mark.slow
def test_a_project_may_train_on_from_the_live_model(lab: Lab) -> None:
    lab.label(0, 1)
    live = lab.fit()
    lab.label(2)
    assert warm_fit(lab, live) == live
    assert warm_fit(lab, live, options=ProjectOptions()) == ""


def test_a_warm_model_is_named_by_what_it_started_from(lab: Lab) -> None:
    lab.label(0, 1)
    now = lab.sync()
    keys = {lab.learner.key(now, list(now.usable), start) for start in ("", "one", "another")}
    assert len(keys) == 3


def test_a_warm_model_begins_with_the_weights_of_the_live_one(lab: Lab) -> None:
    lab.label(0, 1)
    live = lab.fit()
    lab.label(2)
    now = lab.sync()
    # A box of time too short for a single batch leaves the weights as they were.
    options = ProjectOptions(training="warm", max_train_seconds=1e-9)
    key = replace(lab.learner, options=options).fit(now, list(now.usable), ignore, live)
    before, after = (lab.learner.load(k).members[0].network.state_dict() for k in (live, key))
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_the_live_model_is_not_trained_on_while_its_labels_are_the_same(lab: Lab) -> None:
    lab.label(0, 1)
    live = lab.fit()
    now = lab.sync()
    warm = replace(lab.learner, options=ProjectOptions(training="warm"))
    assert warm.fit(now, list(now.usable), ignore, live) == live
    lab.label(2)
    now = lab.sync()
    second = warm.fit(now, list(now.usable), ignore, live)
    assert warm.fit(now, list(now.usable), ignore, second) == second


@pytest.mark.slow
def test_a_live_model_that_does_not_fit_is_not_trained_on(lab: Lab) -> None:
    first, *_ = lab.label(0, 1)
    live = lab.fit()
    lab.label(2)
    other = replace(TINY, network="attention-unet/tu-resnet10t")
    assert warm_fit(lab, live, quick_config=other) == ""
    assert warm_fit(lab, "gone") == ""
    lab.fake.delete_annotation(first)  # what the live model learnt from it has to go
    assert warm_fit(lab, live) == ""


def test_a_live_model_that_learnt_from_a_mistake_is_not_trained_on(lab: Lab) -> None:
    first, *_ = lab.label(0, 1)
    live = lab.fit()
    lab.fake.change_annotation(first, result=drawn(size=SIZE))
    assert warm_fit(lab, live) == ""


# -- the split ------------------------------------------------------------------------------------


def test_nothing_is_held_out_of_few_labels(lab: Lab) -> None:
    lab.label(0, 1, 2)
    now = lab.sync()
    assert lab.learner.split(now, {}) == (lab.tasks[:3], [])


def test_ground_truth_is_for_validation_and_stays_there(lab: Lab) -> None:
    lab.label(0, 1)
    [annotation] = lab.label(2, ground_truth=True)
    for ground_truth in (True, False):
        lab.fake.change_annotation(annotation, ground_truth=ground_truth)
        now = lab.sync()
        assert lab.learner.split(now, {}) == (lab.tasks[:2], [lab.tasks[2]])


def test_equal_pixels_are_never_on_both_sides(lab: Lab) -> None:
    lab.label(0)
    lab.label(1, ground_truth=True)
    lab.sync()
    for task in lab.tasks[:2]:
        lab.store.scans.update(lab.number, task, pixels="the same")
    now = ledger.read(lab.store, lab.number)
    assert lab.learner.split(now, {}) == ([], lab.tasks[:2])


def test_equal_pixels_join_labels_even_over_a_scan_that_nobody_labelled(lab: Lab) -> None:
    lab.label(0)
    lab.label(1, ground_truth=True)
    lab.sync()
    lab.store.scans.update(lab.number, lab.tasks[0], group="one patient")
    lab.store.scans.update(lab.number, lab.tasks[2], group="one patient", pixels="the same")
    lab.store.scans.update(lab.number, lab.tasks[1], pixels="the same")
    now = ledger.read(lab.store, lab.number)
    assert lab.learner.split(now, {}) == ([], lab.tasks[:2])


def test_a_changed_group_by_takes_out_of_training_what_it_joins_to_validation(lab: Lab) -> None:
    for row, task in enumerate(lab.tasks):
        lab.fake.projects[lab.number].tasks[task]["data"]["patient"] = f"patient {row // 2}"
    lab.label(0, 1, 2)
    lab.label(3, ground_truth=True)
    [entry] = lab.fake.entries.values()
    sides = []
    for group_by in ("", "patient", ""):
        entry["extra_params"] = {"group_by": group_by}
        now = lab.sync()
        sides.append(lab.learner.split(now, {}))
    joined = lab.tasks[:2], lab.tasks[2:4]
    assert sides == [(lab.tasks[:3], [lab.tasks[3]]), joined, joined]  # validation only grows


# -- the gate -------------------------------------------------------------------------------------


def scored_as(dice: Sequence[float], hd95: Sequence[float]) -> dict[str, Sequence[float]]:
    """The scores of a scan's labels; every metric but Dice has those of HD95."""
    return {name: dice if name == "dice" else hd95 for name in METRICS}


def gated(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    scores: Mapping[str, list[float]],
    *,
    classes: Sequence[str] = ("Lung",),
    trained_on: Sequence[int] = (),
) -> str:
    """Return what the gate lets through when the models "live" and the new one score like this."""
    now = lab.sync()
    common = {"project_id": lab.number, "labels": 2, "created_at": 0.0}
    lab.store.publications.save_model(Model(key="new", classes=["Lung"], **common))
    live = Model(key="live", classes=list(classes), trained_on=list(trained_on), **common)
    lab.store.publications.save_model(live)
    lab.weights("live").parent.mkdir(parents=True)
    lab.weights("live").touch()

    def scored(
        self: Learner, now: ledger.Ledger, key: str, held: list[int], *_: Any
    ) -> dict[int, ScanScore]:
        found = dict(zip(lab.tasks, scores[key], strict=False))
        pixels = np.full(4, 0.5, np.float32), np.array([True, False, True, False])
        return {
            task_id: ScanScore(scored_as((found[task_id],), (7.0,)), *pixels) for task_id in held
        }

    monkeypatch.setattr(Learner, "_validate", scored)
    return lab.learner.gate(now, "new", "live", lab.tasks[:4])


WORSE = {"live": [0.9, 0.8, 0.9, 0.8], "new": [0.5, 0.4, 0.5, 0.4]}


def test_a_live_model_of_other_labels_cannot_hold_a_new_one_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gated(lab, monkeypatch, WORSE, classes=("Heart",)) == "new"


def test_a_live_model_is_not_judged_on_scans_that_it_was_trained_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gated(lab, monkeypatch, WORSE, trained_on=lab.tasks) == "new"


def test_a_live_model_is_not_judged_on_other_scans_of_patients_that_it_was_trained_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.sync()
    for task in lab.tasks:
        lab.store.scans.update(lab.number, task, group="one patient")
    monkeypatch.setattr(Lab, "sync", lambda self: ledger.read(self.store, self.number))
    assert gated(lab, monkeypatch, WORSE, trained_on=lab.tasks[5:]) == "new"


def test_a_model_that_is_clearly_worse_is_kept_but_not_used(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gated(lab, monkeypatch, WORSE) == "live"
    model = lab.store.publications.model(lab.number, "new")
    assert model is not None
    assert not model.accepted
    assert model.quality.validation["dice"] == pytest.approx(0.45)
    assert model.quality.by_label["dice"] == {"Lung": pytest.approx(0.45)}
    assert (
        model.quality.by_label["hd95"] == {"Lung": model.quality.validation["hd95"]} == {"Lung": 7}
    )


def test_a_label_that_is_nowhere_on_a_scan_is_no_part_of_its_score() -> None:
    pixels = np.full(4, 0.5, np.float32), np.array([True, False, True, False])
    found = {
        1: ScanScore(scored_as((0.5, math.nan, math.nan), (9.0, math.nan, math.nan)), *pixels),
        2: ScanScore(scored_as((0.7, 0.1, math.nan), (5.0, 3.0, math.nan)), *pixels),
        3: ScanScore(scored_as((math.nan,) * 3, (math.nan,) * 3), *pixels),
    }
    assert [one.mean for one in found.values()] == pytest.approx([0.5, 0.4, 1.0])
    quality = measured(ModelQuality(), found, ["Lung", "Heart", "Rib"])
    assert quality.validation["dice"] == pytest.approx(1.9 / 3)
    assert quality.validation["hd95"] == pytest.approx(13 / 3)
    assert quality.by_label["dice"] == pytest.approx({"Lung": 0.6, "Heart": 0.1, "Rib": 1.0})
    assert quality.by_label["hd95"] == pytest.approx({"Lung": 7, "Heart": 3, "Rib": 0})


def test_slices_of_one_patient_are_one_piece_of_evidence(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.sync()
    for row, task in enumerate(lab.tasks):
        lab.store.scans.update(lab.number, task, group="one patient" if row < 3 else f"{row}")
    monkeypatch.setattr(Lab, "sync", lambda self: ledger.read(self.store, self.number))
    scores = {"live": [0.9, 0.9, 0.9, 0.8], "new": [0.7, 0.7, 0.7, 0.85]}
    assert gated(lab, monkeypatch, scores) == "new"  # worse on one patient, better on the other


@pytest.mark.parametrize("new", [[0.9, 0.8, 0.9, 0.8], [0.95, 0.7, 0.95, 0.7]])
def test_a_model_that_is_as_good_or_in_doubt_goes_live(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, new: list[float]
) -> None:
    assert gated(lab, monkeypatch, {"live": [0.9, 0.8, 0.9, 0.8], "new": new}) == "new"


def test_without_validation_scans_every_model_goes_live(lab: Lab) -> None:
    now = lab.sync()
    assert lab.learner.gate(now, "new", "live", []) == "new"


def test_a_live_model_whose_file_is_gone_cannot_hold_a_new_one_back(lab: Lab) -> None:
    lab.label(0, 1)
    lab.label(2, ground_truth=True)
    key = lab.fit()
    assert lab.learner.gate(lab.sync(), key, "gone", [lab.tasks[2]]) == key
    model = lab.store.publications.model(lab.number, key)
    assert model is not None
    assert 0 <= model.quality.validation["dice"] <= 1
    assert model.quality.validation_scans == 1
    assert model.quality.calibration_error is not None
    assert 0 <= model.quality.calibration_error <= 1
    assert 0.1 <= model.quality.temperature <= 10


def test_uncertainty_is_that_of_the_calibrated_probabilities(lab: Lab) -> None:
    lab.label(0, 1)
    key = lab.fit()
    wanted = [(task.id, task.url) for task in lab.store.scans.all(lab.number)][2:]
    before = lab.learner.judge(key, wanted)
    model = lab.store.publications.model(lab.number, key)
    assert model is not None

    model.quality = model.quality.changed(temperature=4.0)
    lab.store.publications.save_model(model)

    after = lab.learner.judge(key, wanted)
    for task in before:
        assert after[task].uncertainty > before[task].uncertainty, "hotter is less sure"
    assert len(after) == 4


# -- judging the pool -----------------------------------------------------------------------------


def test_every_readable_scan_has_an_entropy_within_its_bounds(lab: Lab) -> None:
    lab.label(0, 1)
    key = lab.fit()
    lab.fake.files.pop(f"/data/upload/{lab.number}/{lab.tasks[4]}.png")
    wanted = [(task.id, task.url) for task in lab.store.scans.all(lab.number)]
    found = lab.learner.judge(key, wanted)
    assert list(found) == [task for row, task in enumerate(lab.tasks) if row != 4]
    assert all(0 <= judged.uncertainty <= 1 for judged in found.values())
    assert all(judged.area is None for judged in found.values()), "nobody asked for it"


def test_with_by_minutes_a_judgement_says_what_the_model_draws(lab: Lab) -> None:
    lab.label(0, 1)
    key = lab.fit()
    wanted = [(task.id, task.url) for task in lab.store.scans.all(lab.number)]
    asking = replace(lab.learner, options=ProjectOptions(by_minutes=True))
    for judged in asking.judge(key, wanted).values():
        assert judged.area is not None
        assert judged.regions is not None
        assert (judged.area > 0) == (judged.regions > 0)


def test_a_draft_is_drawn_at_the_images_own_size() -> None:
    probabilities = np.zeros((1, 4, 4), np.float32)
    probabilities[0, :2] = 0.9
    [region] = drafting.regions([probabilities], (8, 12), PARSED)
    assert (region["original_height"], region["original_width"]) == (8, 12)
    mask = labels.masks([region], PARSED, size=(8, 12))
    assert mask[0, :3].all()
    assert not mask[0, 5:].any()
    assert 0.5 < region["score"] <= 0.9


def test_a_draft_of_nothing_has_no_region() -> None:
    assert drafting.regions([np.zeros((1, 4, 4), np.float32)], (8, 8), PARSED) == []


def drawn_at_once(
    probabilities: np.ndarray[Any, Any], size: tuple[int, int], config: labels.LabelConfig
) -> list[dict[str, Any]]:
    """A draft from the masks of all labels together."""
    full = [
        np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))
        for plane in masks.tidied(probabilities)
    ]
    drawn = np.stack(full) > 0.5
    scores = [
        float(plane[mask].mean()) if mask.any() else 0.0
        for plane, mask in zip(full, drawn, strict=True)
    ]
    pixel = max(size[0] / probabilities.shape[1], size[1] / probabilities.shape[2], 1.0)
    return labels.regions(drawn, config, scores=scores, tolerance=pixel)


def many_labels(number: int, kind: str) -> labels.LabelConfig:
    names = "".join(f'<Label value="{row}"/>' for row in range(number))
    return labels.parse(
        '<View><Image name="image" value="$image"/>'
        f'<{kind}Labels name="tag" toName="image">{names}</{kind}Labels></View>'
    )


@pytest.mark.parametrize("kind", ["Brush", "Polygon", "Ellipse", "Rectangle"])
def test_a_draft_label_by_label_is_that_of_all_labels_at_once(kind: str) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((5, 7, 9)).astype(np.float32)
    probabilities[3] = 0
    config = many_labels(5, kind)
    found = drafting.regions([probabilities], (31, 40), config)
    assert found
    assert found == drawn_at_once(probabilities, (31, 40), config)


def test_a_draft_of_many_labels_takes_the_memory_of_one() -> None:
    probabilities = np.zeros((50, 16, 16), np.float32)
    probabilities[:, 4:9, 4:9] = 0.9
    config = many_labels(50, "Brush")
    tracemalloc.start()
    found = drafting.regions([probabilities], (800, 1000), config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 50
    assert peak < 20 * 800 * 1000  # bytes; the masks of all are 50 for each pixel


# -- when drafts are shown ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usable", "dice", "expected"),
    [
        (4, [], False),
        (5, [], True),
        (9, [0.0] * 4, True),  # too few to tell
        (9, [0.0] * 5, False),
        (9, [0.5] * 5, True),
        (9, [0.49] * 5, False),
        (9, [0.0] * 9 + [0.9] * 5, True),  # they got better
        (9, [0.9] * 9 + [0.1] * 5, False),  # they got worse
    ],
)
def test_drafts_begin_with_enough_labels_and_end_while_the_last_five_are_poor(
    store: Store, project_id: int, usable: int, dice: list[float], expected: bool
) -> None:
    assert prelabels.wanted(the(store, project_id), usable, dice) is expected


def test_drafts_can_be_switched_off_and_their_limits_moved(store: Store, project_id: int) -> None:
    def wanted(usable: int, dice: list[float], **options: Any) -> bool:
        store.projects.update(project_id, options=ProjectOptions(**options).model_dump())
        return prelabels.wanted(the(store, project_id), usable, dice)

    assert not wanted(99, [], prelabels=False)
    assert wanted(1, [], prelabel_after=1)
    assert wanted(9, [0.3] * 5, prelabel_min_dice=0.2)


# -- how good drafts were -------------------------------------------------------------------------


def shown(lab: Lab, number: int, rows: slice, *tasks: int, live_at: float) -> None:
    """Let a version go live that carries this draft for these tasks."""
    name = f"{number:04d}.json"
    found: dict[str, list[Region]] = {str(task): drawn(rows, size=SIZE) for task in tasks}
    artifacts.write_json(lab.services.folder(lab.number) / "drafts" / name, found)
    lab.store.publications.save(
        Publication(
            project_id=lab.number,
            name=f"r{number}",
            round=number,
            attempt=1,
            drafts=name,
            created_at=live_at,
            live_at=live_at,
        )
    )


def judged(lab: Lab) -> dict[int, tuple[str, float]]:
    here = RoundContext.of(lab.services, LoadedEncoders(lab.services.settings), lab.number)
    score_drafts(here)
    return {
        score.task_id: (score.version, round(score.dice, 3))
        for score in lab.store.labels.draft_scores(lab.number)
    }


def test_a_label_is_compared_with_the_draft_that_was_live_when_it_was_made(
    lab: Lab, clock: Clock
) -> None:
    shown(lab, 1, slice(0, 8), *lab.tasks, live_at=clock() + 10)
    shown(lab, 2, slice(8, 16), *lab.tasks, live_at=clock() + 30)
    for task in lab.tasks[:3]:
        lab.fake.annotate(task, drawn(slice(0, 8), size=SIZE))
        clock.advance(20)
    lab.sync()
    assert judged(lab) == {lab.tasks[1]: ("r1", 1.0), lab.tasks[2]: ("r2", 0.0)}


def test_the_first_label_of_a_scan_is_judged_and_none_twice(lab: Lab, clock: Clock) -> None:
    shown(lab, 1, slice(0, 8), *lab.tasks, live_at=clock())
    clock.advance(1)
    first = lab.fake.annotate(lab.tasks[0], drawn(slice(0, 8), size=SIZE))
    lab.sync()
    before = judged(lab)
    lab.fake.annotate(lab.tasks[0], drawn(slice(8, 16), size=SIZE))
    lab.fake.change_annotation(first, result=[])
    lab.sync()
    assert judged(lab) == before == {lab.tasks[0]: ("r1", 1.0)}


def test_an_empty_draft_of_an_empty_scan_is_perfect(lab: Lab, clock: Clock) -> None:
    shown(lab, 1, slice(0, 0), *lab.tasks, live_at=clock())
    clock.advance(1)
    lab.fake.annotate(lab.tasks[0], [])
    lab.sync()
    assert judged(lab) == {lab.tasks[0]: ("r1", 1.0)}


def test_a_skip_and_a_scan_without_a_draft_are_not_judged(lab: Lab, clock: Clock) -> None:
    shown(lab, 1, slice(0, 8), lab.tasks[0], live_at=clock())
    clock.advance(1)
    lab.fake.annotate(lab.tasks[0], drawn(size=SIZE), skip=True)
    lab.fake.annotate(lab.tasks[1], drawn(size=SIZE))
    lab.sync()
    assert judged(lab) == {}


def test_a_draft_of_a_former_label_config_is_not_judged(lab: Lab, clock: Clock) -> None:
    shown(lab, 1, slice(0, 8), *lab.tasks, live_at=clock())
    clock.advance(1)
    lab.fake.projects[lab.number].label_config = CONFIG.replace("Lung", "Heart")
    lab.fake.annotate(lab.tasks[0], drawn(size=SIZE, label="Heart"))
    now = lab.sync()
    assert list(now.usable) == [lab.tasks[0]]
    assert judged(lab) == {}


def test_a_draft_of_an_image_that_was_replaced_is_not_judged(lab: Lab, clock: Clock) -> None:
    shown(lab, 1, slice(0, 8), *lab.tasks, live_at=clock())
    clock.advance(1)
    lab.fake.annotate(lab.tasks[0], drawn(size=SIZE))
    lab.sync()
    lab.store.scans.update(lab.number, lab.tasks[0], height=0, width=0)
    assert judged(lab) == {}


# -- drafts on demand -----------------------------------------------------------------------------


@pytest.fixture
def live(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> LiveDrafts:
    """Drafts of a model that is live, with five labels behind it."""
    lab.label(*range(5))
    key = lab.fit()
    lab.store.publications.save(
        Publication(project_id=lab.number, name="r1", round=1, attempt=1, model_key=key, labels=5)
    )
    lab.store.publications.go_live(lab.number, "r1")
    monkeypatch.setattr(drafting, "build", lambda settings, store: lab.services)
    return LiveDrafts(lab.services.settings, lab.store)


def asked(lab: Lab, live: LiveDrafts) -> list[Region]:
    return live.regions(lab.number, lab.tasks[5])


def test_a_live_draft_is_the_models_own(lab: Lab, live: LiveDrafts) -> None:
    found = asked(lab, live)
    json.dumps(found)
    assert all(region["original_width"] == SIZE for region in found)
    version = lab.store.publications.get(lab.number, "r1")
    assert version is not None
    url = f"/data/upload/{lab.number}/{lab.tasks[5]}.png"
    [(_, scan, probabilities)] = lab.learner.predict(version.model_key, [(lab.tasks[5], url)])
    assert found == drafting.regions(probabilities, scan.size, PARSED)


def test_no_live_draft_is_drawn_while_drafts_are_off(lab: Lab, live: LiveDrafts) -> None:
    lab.store.projects.update(lab.number, options=ProjectOptions(prelabels=False).model_dump())
    before = len(lab.fake.requests)
    assert asked(lab, live) == []
    assert live.regions(99, 1) == []
    assert len(lab.fake.requests) == before


def test_no_live_draft_is_drawn_of_a_task_that_is_not_stored(lab: Lab, live: LiveDrafts) -> None:
    before = len(lab.fake.requests)
    assert live.regions(lab.number, max(lab.tasks) + 1) == []
    assert len(lab.fake.requests) == before


def test_no_live_draft_is_drawn_of_a_scan_with_a_label(
    lab: Lab, live: LiveDrafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "predict", None)
    assert live.regions(lab.number, lab.tasks[0]) == []


def test_a_network_that_was_warmed_up_is_not_read_again(
    lab: Lab, live: LiveDrafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.warm(lab.number)
    monkeypatch.setattr(Learner, "load", None)
    assert all(region["original_width"] == SIZE for region in asked(lab, live))


def test_a_live_draft_of_an_unreadable_scan_is_an_image_error(lab: Lab, live: LiveDrafts) -> None:
    lab.fake.files.clear()
    with pytest.raises(ImageError):
        asked(lab, live)
