"""The typed records: of a round, its queue and its model's quality, and of a project's labels.

They read the JSON of every release: a missing key has a default, and an unknown key is kept for
the export (rounds.json).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, model_serializer, model_validator
from sqlalchemy.types import TypeDecorator

from backend.storage.artifacts import ProjectFiles, Space, round_name

# The terms of a ranked scan: cluster, entropy, uncertainty, diversity, utility, control; with
# `source_by` the number of its source, with `slice_by` its place, with `by_minutes` area, regions
# and minutes. A model of them would make a record of 100,000 scans take almost three times as long
# to read.
Terms = dict[str, Any]

# The reason of a source's first scan begins with this. Names of sources are task data: they stay
# out of records, which outlive deleted scans.
FIRST_OF_SOURCE = "first scan of its source"
FIRST_WITHOUT = "first scan without a source"

HELD_OUT_KEPT = 500  # scans whose Dice stands in the quality of a model

# The JSON keys of a metric in the quality of a model: validation_dice, dice_by_label.
_VALIDATION, _BY_LABEL = "validation_", "_by_label"


class Record(BaseModel):
    """A frozen JSON document; a change makes a new one."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values; pydantic does not check them."""
        return self.model_copy(update=values)

    def written(self) -> dict[str, Any]:
        """Return the JSON of the record, without the fields that were never set."""
        return self.model_dump(exclude_unset=True)


class QueueDecision(Record):
    """All that the decision about a queue rests on.

    Attributes:
        labels: The labels that the decision knew; see `Ledger.label_keys`.
        phase: "cold-start" or "acquisition".
        strategy: The name of the strategy that decided.
        alpha: The weight of diversity; None in a cold start.
        options: The project's options.
        encoder: The name of the encoder.
        model: The key of the model that scored the pool, "" for none. Another one may have drawn.
        rules: The version of the rules of selection; None of releases before 2. Another version
            may order the same pool in another way.
        k: The number of clusters.
        silhouette: Of the clusters; None for too few scans.
        medoids: The task ids of the medoids.
        alike: The share of the scans that lie near a labelled one on the map; None of early
            releases.
        clusters, clusters_labelled: The number of clusters of the map, and of those with a labelled
            scan; None of early releases.
        warnings: What is to be said on the page.
    """

    labels: list[str] = []
    phase: str | None = None
    strategy: str | None = None
    alpha: float | None = None
    options: dict[str, Any] = {}
    encoder: str = ""
    model: str = ""
    rules: int | None = None
    k: int | None = None
    silhouette: float | None = None
    medoids: list[int] = []
    alike: float | None = None
    clusters: int | None = None
    clusters_labelled: int | None = None
    warnings: list[str] = []


class QueueRecord(QueueDecision):
    """The queue that a round decided, and all that the decision rests on.

    Attributes:
        order: Task ids, first to be drawn first.
        reasons: Why each stands there, in the same order.
        scans: The terms of each ranked scan, by task id.
        before: With `by_minutes`, what a model saw in each labelled scan before its label, by task
            id: uncertainty, drawn share and number of regions.
        minutes_r2: How well minutes are predicted out of fold; None if that is not known.
    """

    order: list[int] = []
    reasons: list[str] = []
    scans: dict[int, Terms] = {}
    before: dict[int, list[float]] = {}
    minutes_r2: float | None = None

    @property
    def space(self) -> Space:
        """The space in which the decision measured distances."""
        return Space(self.encoder, self.options["projection"], self.options["seed"])

    @property
    def reason_of(self) -> dict[int, str]:
        """Why each scan stands where it does, by task id."""
        return dict(zip(self.order, self.reasons, strict=False))

    def explained(self, sources: Mapping[int, str]) -> dict[int, str]:
        """Return why each scan stands where it does, by task id, with the names of sources.

        Args:
            sources: The source of each scan that has one, by task id.
        """
        first = {task: f"first scan of source {name}" for task, name in sources.items()}
        return {
            task: reason.replace(FIRST_OF_SOURCE, first.get(task, FIRST_WITHOUT), 1)
            if reason.startswith(FIRST_OF_SOURCE)
            else reason
            for task, reason in self.reason_of.items()
        }


def read_queue(files: ProjectFiles, number: int) -> QueueRecord | None:
    """Return the queue of a round; None when there is none, or a damaged one."""
    return files.read_parsed(round_name(number), QueueRecord.model_validate_json)


class _WithoutScans(BaseModel):
    """What is read of a large queue in a third of the time: it leaves out reasons and terms."""

    labels: list[str] = []
    order: list[int] = []


def read_order(files: ProjectFiles, number: int) -> list[int] | None:
    """Return the task ids of a queue, first to be drawn first; None as in `read_queue`."""
    record = files.read_parsed(round_name(number), _WithoutScans.model_validate_json)
    return record.order if record else None


def read_labels(files: ProjectFiles, number: int) -> list[str] | None:
    """Return the labels that a queue knew; None as in `read_queue`."""
    record = files.read_parsed(round_name(number), _WithoutScans.model_validate_json)
    return record.labels if record else None


def write_queue(files: ProjectFiles, number: int, queue: QueueRecord) -> None:
    """Write the queue of a round down."""
    # Not by way of a dict: with a million scans that would be a second copy in memory.
    files.write(round_name(number), lambda file: file.write(queue.model_dump_json().encode()))


class RoundRecord(Record):
    """How a round went.

    Attributes:
        seconds: How long each step took, by the name of the step.
        version: The queue that was published, "" for none; None while the round is under way.
        error: What ended the round before its time.
    """

    seconds: dict[str, float] = {}
    version: str | None = None
    error: str | None = None


class VolumeScore(Record):
    """What a model is worth on a held-out volume.

    Attributes:
        volume: Its pseudonym.
        judged: Number of its slices that are labelled; the others are left out.
        slices: Number of its slices that are tasks.
        scores: By metric, in three dimensions, the mean over the classes; distances are in mm, and
            missing where the volume's spacing is unknown.
    """

    volume: str
    judged: int
    slices: int
    scores: dict[str, float]


class ModelQuality(Record):
    """How a model was trained, and what it is worth on the scans that are held out.

    JSON has a key for each metric: `validation_dice` stands for `validation["dice"]`, and
    `dice_by_label` for `by_label["dice"]`.

    Attributes:
        train_seconds: How long the training took.
        started_from: The key of the model that training went on from, "" for none.
        learnt: What was drawn on the scans it was trained on; None of early releases.
        validation: The mean score on held-out scans, by metric.
        by_label: The mean score of each label, by metric.
        validation_scans: How many scans that were.
        volumes: The scores of the volumes that these scans are slices of.
        calibration_error: How far its probabilities are off, on average.
        temperature: At which they mean what they say.
        refined_from: The key of the round's model that this model refines, "" for none.
        steps: How many steps the training took; None of early releases, which are not refined.
        settled: Whether a refinement of the model ended, or, of a refined model, whether it was
            published or found to be of no use.
        refinement_failures: How many refinements of the model ended with an error.
        recipes: The recipe of each network; empty for QUICK, and of early releases.
        compared: The mean cross-validated Dice of each recipe that the refinement compared.
        best_recipe: The recipe for the rounds after that refinement, "" for none.
        held_out: By metric the score of each held-out scan, by task id, of at most HELD_OUT_KEPT
            scans; empty of early releases.
        compared_with: The key of the model a batch ago whose masks were compared, "" for none.
        agreement_before: Dice of the masks of some unlabelled scans with those of that model.
        agreement_twin: Dice of the same masks with those of a network of the same labels.
        rules: The TRAINING_RULES it was trained by; 1 of releases that did not record them.
    """

    train_seconds: float | None = None
    started_from: str = ""
    learnt: str | None = None
    validation: dict[str, float] = {}
    by_label: dict[str, dict[str, float]] = {}
    validation_scans: int | None = None
    volumes: list[VolumeScore] = []
    calibration_error: float | None = None
    temperature: float = 1.0
    refined_from: str = ""
    steps: int | None = None
    settled: bool = False
    refinement_failures: int = 0
    recipes: list[str] = []
    compared: dict[str, float] = {}
    best_recipe: str = ""
    held_out: dict[str, dict[int, float]] = {}
    compared_with: str = ""
    agreement_before: list[float] = []
    agreement_twin: list[float] = []
    rules: int = 1

    @property
    def held_out_dice(self) -> dict[int, float]:
        """The Dice of each held-out scan, by task id."""
        return self.held_out.get("dice", {})

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, written: Mapping[str, Any]) -> dict[str, Any]:
        """Gather the keys of all metrics into the fields `validation` and `by_label`."""
        gathered: dict[str, Any] = {}
        for key, value in written.items():
            if key.startswith(_VALIDATION) and key not in cls.model_fields:
                gathered.setdefault("validation", {})[key.removeprefix(_VALIDATION)] = value
            elif key.endswith(_BY_LABEL):
                gathered.setdefault("by_label", {})[key.removesuffix(_BY_LABEL)] = value
            else:
                gathered[key] = value
        return gathered

    @model_serializer(mode="wrap")
    def _spread(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Give each metric its two keys again, in the place of the two fields."""
        spread: dict[str, Any] = {}
        for key, value in dump(self).items():
            if key == "validation":
                spread |= {f"{_VALIDATION}{metric}": score for metric, score in value.items()}
            elif key == "by_label":
                spread |= {f"{metric}{_BY_LABEL}": scores for metric, scores in value.items()}
            else:
                spread[key] = value
        return spread


class LabelRecord(Record):
    """What labels cost and how well annotators agree; see `rounds.annotators.label_figures`.

    Attributes:
        minutes: None while no label has a known time.
        agreement: None while no scan was drawn by two annotators.
        people: The Label Studio user of each annotator's number, with the option `show_people`.
        stopping: Whether labelling can stop, and the signs for it; None before the first training.
    """

    minutes: dict[str, Any] | None = None
    agreement: dict[str, Any] | None = None
    people: dict[str, int] = {}
    stopping: dict[str, Any] | None = None


# The names of the studies; each is also the step that the page shows.
SELECTION_GAIN = "selection-gain"
REVIEW = "review"


class SelectionGainRecord(Record):
    """What selection gains in a project, or how far it is; see `rounds.idle.selection_gain`.

    Attributes:
        labels: A key of every label when the study began.
        chosen, control: The task ids of the training scans that a rule chose and of those that were
            drawn at random, in the order of their labels.
        held_out: The task ids of the held-out scans.
        groups: The number of groups of the held-out scans.
        digest: What the networks depend on; with another one the study begins anew.
        differences: The difference of Dice of each finished repeat on each held-out group.
        gain: The result with its interval ("value", "low", "high"); None before the last repeat.
    """

    labels: list[str] = []
    chosen: list[int] = []
    control: list[int] = []
    held_out: list[int] = []
    groups: int = 0
    digest: str = ""
    differences: list[list[float]] = []
    gain: dict[str, float] | None = None


class ReviewedScan(Record):
    """The suspicion that the label of a scan is wrong.

    Attributes:
        task: The scan.
        label: A digest of the label; a corrected label has another one.
        annotations: The ids of the annotations that the label was merged from.
        score: In [0, 1], higher for a more suspicious label.
        share: Of the drawn area, on which a network contradicts the label and is sure.
        reason: As in `model.review.Suspicion`.
        about: The name of the class in question.
        other: The name of the class that it looks exchanged with, "" for none.
        file: Holds the mask that the networks expect.
        page: The page of a slab that the suspicion is about.
    """

    task: int
    label: str
    annotations: list[int]
    score: float
    share: float
    reason: str
    about: str
    other: str = ""
    file: str
    page: int = 0


class ReviewPlan(Record):
    """A review that is under way: which scans each of its networks has to predict.

    Attributes:
        name: The names of its files begin with this.
        classes: A digest of all that masks depend on beside the annotations.
        folds: The task ids of each fold.
    """

    name: str
    classes: str
    folds: list[list[int]]


class ReviewRecord(Record):
    """The suspicion of each labelled scan; see `rounds.idle.label_review`.

    Attributes:
        scans: The labelled scans, the most suspicious first; empty while there are too few.
        classes: As in the plan of the review.
        shown: The tasks on which Label Studio holds a suspicion, under the live version.
        tab: Whether the tab was made. It is made once: people may remove it.
        plan: Of the next review, while that is under way.
        published: In place of `shown`, the number of these tasks in a review by an early release,
            whose files cannot be read any more; None otherwise.
    """

    scans: list[ReviewedScan] = []
    classes: str = ""
    shown: list[int] = []
    tab: bool = False
    plan: ReviewPlan | None = None
    published: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_tab(cls, written: Mapping[str, Any]) -> dict[str, Any]:
        """Set `tab` for early releases, which made the tab with the first suspicion."""
        published = written.get("published")
        return dict(written) if published is None else {"tab": published > 0, **written}

    def without(self, task_ids: Collection[int]) -> ReviewRecord:
        """Return the review without some scans."""
        gone = set(task_ids)
        plan = self.plan and self.plan.changed(
            folds=[[task for task in fold if task not in gone] for fold in self.plan.folds]
        )
        return self.changed(
            scans=[scan for scan in self.scans if scan.task not in gone],
            shown=[task for task in self.shown if task not in gone],
            plan=plan,
        )


Kind = TypeVar("Kind", bound=Record)


class RecordColumn(TypeDecorator[Kind]):
    """A column of JSON whose rows hold a record of one kind."""

    impl = sa.JSON
    cache_ok = True

    def __init__(self, kind: type[Kind]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Kind | None, dialect: sa.Dialect) -> Any:
        """Return what the database keeps."""
        return None if value is None else value.written()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Kind | None:
        """Return the record; None in a row that an outer join left empty."""
        return None if value is None else self.kind.model_validate(value)
