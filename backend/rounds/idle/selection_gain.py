"""Measure in idle time what selection gains in a project, against its control arm.

With `random_fraction` some scans of every batch are drawn at random. The study trains networks with
the quick recipe on equal numbers of chosen and of random labels, and compares them on the held-out
scans (`model.selection_gain`). It is stored after every repeat, and goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from backend.label_studio.moments import moment
from backend.rounds.context import RoundContext
from backend.rounds.drafts.draft_quality import shown_at
from backend.rounds.idle import changed_labels
from backend.rounds.models.examples import Example, labelled
from backend.storage import artifacts, records
from backend.storage.records import SELECTION_GAIN, QueueRecord, SelectionGainRecord
from model import recipes, selection_gain
from model.evaluation import dice_of_scans
from model.fitted import Fitted, TrainConfig
from model.inference import predict
from model.refinement import LabelledScans, Stopped, until_stopped
from model.registry import TRAINING_RULES
from model.validation import group_means

log = logging.getLogger(__name__)

Stop = Callable[[], bool]

NOT_DUE = f"{SELECTION_GAIN} is not due"  # the row with the revision for which this was found


class SelectionGain:
    """The study: chosen labels against labels drawn at random."""

    name = SELECTION_GAIN

    def due(self, here: RoundContext) -> bool:
        """Return whether the study has not ended, or enough labels changed since it began.

        In a paused project, and without `random_fraction`, it is never due; its last result stays.
        Labels are read once after each refresh, because only a refresh changes them.
        """
        if here.options.paused or not here.options.random_fraction:
            return False
        revision = str(here.project.completed)
        if here.store.studies.digest(here.id, NOT_DUE) == revision:
            return False
        if _is_due(here):
            return True
        here.store.studies.save(here.id, NOT_DUE, revision, {})
        return False

    def run(self, here: RoundContext, stop: Stop) -> None:
        """Train and compare the networks that are missing, and store the result.

        Args:
            here: The project.
            stop: Asked before every scan and every step of training.

        Raises:
            Stopped: If `stop` returned True; finished repeats are kept.
            UnreadableLabels: If labelled scans have become unreadable.
        """
        study = _continued(here) or _begun(here, stop)
        _save(here, study)
        if not _is_enough(study):
            return
        for differences in _repeats(here, study, stop):
            study = study.changed(differences=[*study.differences, differences])
            _save(here, study)
        gain = selection_gain.gain(np.array(study.differences), seed=here.options.seed)
        log.info("selection gains %.3f of Dice (%.3f to %.3f)", *gain)
        _save(here, study.changed(gain=gain._asdict()))


def _is_due(here: RoundContext) -> bool:
    known = _known(here)
    if known is None or _is_under_way(known):
        return bool(_label_keys(here))
    changed = {key.partition("@")[0] for key in {*known.labels} ^ {*_label_keys(here)}}
    return changed_labels.are_enough(len(changed), len(known.labels))


def _known(here: RoundContext) -> SelectionGainRecord | None:
    record = here.store.studies.record(here.id, SELECTION_GAIN)
    return SelectionGainRecord.model_validate(record) if record else None


def _save(here: RoundContext, study: SelectionGainRecord) -> None:
    written = study.written()
    here.store.studies.save(here.id, SELECTION_GAIN, artifacts.digest(written), written)


def _label_keys(here: RoundContext) -> list[str]:
    """Return a key of every label; a corrected one has another after its "@".

    The scans are not read: a label whose scan cannot be read counts too.
    """
    stored = here.store.labels.annotations(here.id)
    return [f"{one.id}@{one.updated_at}" for one in stored if not (one.cancelled or one.problem)]


def _is_enough(study: SelectionGainRecord) -> bool:
    return selection_gain.is_enough(len(study.chosen), len(study.control), study.groups)


def _is_under_way(study: SelectionGainRecord) -> bool:
    return _is_enough(study) and study.gain is None


def _continued(here: RoundContext) -> SelectionGainRecord | None:
    """Return the study that is under way, if its labels and the settings are still the same."""
    study = _known(here)
    if study is None or not _is_under_way(study):
        return None
    there = here.ledger.usable.keys() >= {*study.chosen, *study.control, *study.held_out}
    return study if there and study.digest == _digest(here, study) else None


def _begun(here: RoundContext, stop: Stop) -> SelectionGainRecord:
    """Return a new study of today's labels, without a repeat."""
    sides = here.store.labels.splits(here.id)
    # A label without a side is newer than the last training, and may yet be held out.
    training = [task for task in here.ledger.usable if sides.get(task) is False]
    held = [task for task in here.ledger.usable if sides.get(task)]
    drawn = _drawn_at_random(here, training, stop)
    chosen, control = ([i for i, random in drawn.items() if random == arm] for arm in (False, True))
    least = selection_gain.LEAST_LABELS
    study = SelectionGainRecord(
        labels=_label_keys(here),
        chosen=chosen[: max(len(control), least)],
        control=control[: max(len(chosen), least)],
        held_out=held,
        groups=len({here.ledger.groups[task] for task in held}),
    )
    return study.changed(digest=_digest(here, study), differences=[], gain=None)


def _drawn_at_random(here: RoundContext, tasks: Sequence[int], stop: Stop) -> dict[int, bool]:
    """Return whether each scan was drawn at random, by task id, in the order of the tasks.

    A scan counts only if it was among the picks of the queue that was live when its annotator
    opened it. Otherwise it was neither chosen nor drawn, but found in another way.
    """
    versions = [one for one in here.store.publications.all(here.id) if one.live_at]
    of_round: dict[int, list[int]] = {}
    for task in tasks:
        label = here.ledger.usable[task][0]
        version = shown_at(versions, moment(label.created_at) - (label.seconds or 0.0))
        if version is not None:
            of_round.setdefault(version.round, []).append(task)
    found: dict[int, bool] = {}
    for number, opened in of_round.items():
        if stop():
            raise Stopped
        picked = _picked(records.read_queue(here.files, number) or QueueRecord())
        found |= {task: picked[task] for task in opened if task in picked}
    return {task: found[task] for task in tasks if task in found}


def _picked(queue: QueueRecord) -> dict[int, bool]:
    """Return whether each scan that was picked one by one was drawn at random, by task id."""
    size = "cold_start_budget" if queue.phase == "cold-start" else "batch_size"
    picks = islice(queue.scans.items(), queue.options.get(size, 0))
    return {task: bool(terms["control"]) for task, terms in picks}


def _digest(here: RoundContext, study: SelectionGainRecord) -> str:
    """Return what the networks of a study and their scores depend on."""
    tasks = (*study.chosen, *study.control, *study.held_out)
    return artifacts.digest(
        [[task, *here.ledger.keys_of(task)] for task in tasks],
        here.config.labels,
        sorted(here.config.rows.items()),
        repr(here.learner.quick_config),
        here.options.merge,
        here.options.seed,
        TRAINING_RULES,
    )


def _examples(
    here: RoundContext, study: SelectionGainRecord, stop: Stop
) -> dict[int, list[Example]]:
    """Return the pages of each scan of a study, by task id."""
    examples: dict[int, list[Example]] = {}
    tasks = (*study.chosen, *study.control, *study.held_out)
    for example in here.learner.examples(here.ledger, tasks, stop):
        examples.setdefault(example.task, []).append(example)
    return examples


def _repeats(here: RoundContext, study: SelectionGainRecord, stop: Stop) -> Iterator[list[float]]:
    """Yield the differences of each repeat that the study lacks."""
    examples = _examples(here, study, stop)
    arms = (*study.chosen, *study.control)
    drawn = [page.mask for task in arms for page in examples[task]]
    config = recipes.adapted(here.learner.quick_config, drawn)  # one scale for all networks
    held = [page for task in study.held_out for page in examples[task]]
    halves = selection_gain.repeats(study.chosen, study.control, seed=here.options.seed)
    for number in range(len(study.differences), len(halves)):
        pages = [[page for task in arm for page in examples[task]] for arm in halves[number]]
        yield _differences(here, held, pages, replace(config, seed=config.seed + number), stop)


def _differences(
    here: RoundContext,
    held: Sequence[Example],
    arms: Sequence[Sequence[Example]],
    config: TrainConfig,
    stop: Stop,
) -> list[float]:
    """Return the Dice with the first arm minus that with the second, on each held-out group."""
    group_of = here.ledger.groups
    scans = (labelled(arm, group_of) for arm in arms)
    first, second = (_dice(_fitted(arm, config, stop), held, stop) for arm in scans)
    groups = [group_of[task] for task in first]
    means: list[float] = group_means([first[i] - second[i] for i in first], groups).tolist()
    return means


def _fitted(arm: LabelledScans, config: TrainConfig, stop: Stop) -> Fitted:
    fitted = arm.fit(config, stop=stop)
    if stop():
        raise Stopped
    return fitted


def _dice(fitted: Fitted, pages: Sequence[Example], stop: Stop) -> dict[int, float]:
    """Return the Dice of a network on each scan, by task id."""
    predicted = predict(fitted, [page.image for page in pages])
    masks = (probabilities > 0.5 for probabilities in until_stopped(stop, predicted))
    return dice_of_scans(masks, [page.mask for page in pages], [page.task for page in pages])
