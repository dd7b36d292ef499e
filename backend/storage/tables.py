"""The tables; their rows are handed out detached, as plain records."""

from __future__ import annotations

from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backend.options import FIRSTLIGHT, FIRSTLIGHT_1
from backend.storage.records import LabelRecord, ModelQuality, RecordColumn, RoundRecord

WIPED = "deleted rows are overwritten"  # key: all rows deleted so far have been overwritten


class Base(DeclarativeBase):
    """Tables; their rows are handed out detached, as plain records."""

    type_annotation_map: ClassVar = {
        dict[str, Any]: sa.JSON,
        list[str]: sa.JSON,
        LabelRecord: RecordColumn(LabelRecord),
        ModelQuality: RecordColumn(ModelQuality),
        RoundRecord: RecordColumn(RoundRecord),
    }


class Meta(Base):
    """Facts of the installation: id, schema version, secret of the webhooks, pins."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Project(Base):
    """One Label Studio project: refresh requests, options, progress and problem."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # The refresh request: two counters. (Some columns have older names than their attributes.)
    requested: Mapped[int] = mapped_column("wanted", default=0)
    completed: Mapped[int] = mapped_column("done", default=0)
    # Since when an uncompleted request waits.
    waits_since: Mapped[float] = mapped_column(default=0.0, server_default="0")
    full_sync: Mapped[bool] = mapped_column(default=True)
    # The requested revision that last asked for a full sync.
    full_requested: Mapped[int] = mapped_column("full_wanted", default=0, server_default="0")
    # The requested revision of the last press of Start Training. Until it is completed, a round is
    # due, however few labels have changed.
    train_requested: Mapped[int] = mapped_column("train_wanted", default=0, server_default="0")
    # Disconnected by a person; only a new connection takes the project up again.
    disconnected: Mapped[bool] = mapped_column("gone", default=False)
    # Since when Label Studio answers that the project does not exist; 0 while it exists. The timer
    # goes on asking, and takes the project up again by itself.
    vanished_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    title: Mapped[str] = mapped_column(default="")
    # The host name under which task data may refer to Label Studio; it is never called.
    hostname: Mapped[str] = mapped_column(default="")
    label_config: Mapped[str] = mapped_column(sa.Text, default="")
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # The method while nobody names one. A project keeps the one that it was registered with: a new
    # release may have a better one, but a change embeds all scans anew and reorders the queue.
    first_method: Mapped[str] = mapped_column(default=FIRSTLIGHT, server_default=FIRSTLIGHT_1)
    # The values that the last sync saw; the timer compares with them.
    seen: Mapped[dict[str, Any]] = mapped_column(default=dict)
    full_synced_at: Mapped[float] = mapped_column(default=0.0)
    fingerprint: Mapped[str] = mapped_column(default="")
    live_version: Mapped[str] = mapped_column(default="")
    # Quality of the last compared drafts, for the page: mean Dice, share submitted unchanged, and
    # mean Dice of the changed drafts. None while unknown.
    draft_dice: Mapped[float | None]
    unchanged_drafts: Mapped[float | None]
    changed_draft_dice: Mapped[float | None]
    # The current step, for the page.
    step: Mapped[str] = mapped_column(default="")
    step_at: Mapped[float] = mapped_column(default=0.0)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    warnings: Mapped[list[str]] = mapped_column(default=list)
    options_problem: Mapped[str] = mapped_column(default="")
    # Since when Label Studio's webhooks are refused for a wrong secret; 0 while they are accepted.
    webhook_refused_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    problem: Mapped[str] = mapped_column(default="")
    fix: Mapped[str] = mapped_column("mend", default="")
    problem_at: Mapped[float] = mapped_column(default=0.0)
    # When the next refresh may start.
    failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[float] = mapped_column(default=0.0)
    started_at: Mapped[float] = mapped_column(default=0.0)
    publish_seconds: Mapped[float] = mapped_column(default=0.0)
    # Number of workers that died in the round under way.
    deaths: Mapped[int] = mapped_column(default=0, server_default="0")
    # Since when the storage of the images is unavailable; 0 while it is available.
    storage_away_since: Mapped[float] = mapped_column(default=0.0, server_default="0")
    # Since when labelling can stop; 0 while more labels are worth it, or nothing is known of that.
    can_stop_since: Mapped[float] = mapped_column(default=0.0, server_default="0")


class Sighting(Base):
    """A project named in a call of /setup; a worker asks Label Studio about it."""

    __tablename__ = "sightings"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]


class Task(Base):
    """A scan as Label Studio lists it, and the result of reading its image."""

    __tablename__ = "tasks"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(sa.Text, default="")
    group: Mapped[str] = mapped_column(default="")
    source: Mapped[str] = mapped_column(default="", server_default="")
    place: Mapped[float | None]  # of a slice in its volume
    updated_at: Mapped[str] = mapped_column(default="")
    is_labeled: Mapped[bool] = mapped_column(default=False)
    overlap: Mapped[int] = mapped_column(default=1, server_default="1")  # annotations it needs
    height: Mapped[int] = mapped_column(default=0)
    width: Mapped[int] = mapped_column(default=0)
    pixels: Mapped[str] = mapped_column(default="")  # a digest: equal scans share a group
    problem: Mapped[str] = mapped_column(sa.Text, default="")
    retry_at: Mapped[float] = mapped_column(default=0.0)
    # The last pause before another try, in seconds.
    pause: Mapped[float] = mapped_column(default=0.0, server_default="0")
    # The worker that reads and embeds this scan now, and how many workers died while reading it
    # since it was last read successfully.
    read_by: Mapped[str] = mapped_column(default="", server_default="")
    deaths: Mapped[int] = mapped_column(default=0, server_default="0")


class Annotation(Base):
    """A submitted annotation, as Label Studio sent it."""

    __tablename__ = "annotations"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(index=True)
    updated_at: Mapped[str]
    created_at: Mapped[str]
    cancelled: Mapped[bool]
    ground_truth: Mapped[bool]
    # JSON. Brush masks are long: only `Labels.results` reads them.
    result: Mapped[str] = mapped_column(sa.Text, deferred=True, deferred_raiseload=True)
    problem: Mapped[str] = mapped_column(sa.Text, default="")
    # The number of the annotator in this project; 0 while it is unknown. No name is stored.
    annotator: Mapped[int] = mapped_column(default=0, server_default="0")
    # The time that Label Studio measured (`lead_time`), breaks included; None if it has none.
    seconds: Mapped[float | None]
    area: Mapped[float] = mapped_column(default=0.0, server_default="0")  # share of the scan
    # How many regions were taken from a draft as they were, changed in a draft, and drawn by hand.
    kept: Mapped[int] = mapped_column(default=0, server_default="0")
    changed: Mapped[int] = mapped_column(default=0, server_default="0")
    manual: Mapped[int] = mapped_column(default=0, server_default="0")


class Annotator(Base):
    """The number of a Label Studio user in one project: 1 for the first who drew, and so on."""

    __tablename__ = "annotators"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    user: Mapped[int] = mapped_column("user_id", primary_key=True, autoincrement=False)
    number: Mapped[int]


class MaskComparison(Base):
    """The scores of two annotations of one scan by two annotators."""

    __tablename__ = "mask_comparisons"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # annotation ids
    second: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    task_id: Mapped[int]
    key: Mapped[str]  # another one makes the scores outdated
    # Of each class, by name of the metric; None for a class that neither drew.
    scores: Mapped[dict[str, Any]]


class LabelFigures(Base):
    """What the labels of a project cost and how well its annotators agree, as last computed."""

    __tablename__ = "label_figures"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str]
    record: Mapped[LabelRecord]


class StudyResult(Base):
    """What a study found out about a project in idle time; see `rounds.idle.idle_studies`."""

    __tablename__ = "study_results"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]  # of what the study looked at: another one makes the result outdated
    record: Mapped[dict[str, Any]]


class Embedding(Base):
    """The place of a scan's embedding: the file (chunk) and its row."""

    __tablename__ = "embeddings"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    encoder: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(primary_key=True)
    chunk: Mapped[str]
    row: Mapped[int]


class Split(Base):
    """The side of a labelled scan, training or validation; validation membership only grows."""

    __tablename__ = "splits"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(primary_key=True)
    validation: Mapped[bool]


class DraftScore(Base):
    """The score of a draft: its Dice against the annotation that a person then submitted."""

    __tablename__ = "draft_scores"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[str]
    created_at: Mapped[str]  # of the annotation
    dice: Mapped[float]
    # Whether the scan was picked at random. Scans that an acquisition picks are harder.
    control: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    # Of each label: pixels of the draft, and pixels that differ in the submitted mask. Empty of
    # early releases.
    pixels: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    # For a slice between two slices that were labelled before: their distance, and the Dice of the
    # draft that follows from them.
    gap: Mapped[float | None]
    between_dice: Mapped[float | None]

    @property
    def unchanged(self) -> bool:
        """Whether the person submitted the draft without changing a pixel; it may be empty."""
        return self.dice == 1.0


class Model(Base):
    """A trained network; its key is a digest of its training data and configuration."""

    __tablename__ = "models"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[int]
    created_at: Mapped[float]
    classes: Mapped[list[str]] = mapped_column(default=list)
    trained_on: Mapped[list[int]] = mapped_column(sa.JSON, default=list)  # task ids
    accepted: Mapped[bool] = mapped_column(default=True)  # False: validation refused it
    quality: Mapped[ModelQuality] = mapped_column(default=ModelQuality)


class Publication(Base):
    """One attempt to publish a queue. Its name is never used twice."""

    __tablename__ = "versions"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int]
    attempt: Mapped[int]
    model_key: Mapped[str] = mapped_column(default="")
    labels: Mapped[int] = mapped_column(default=0)
    # publishing -> ready -> live -> previous; publishing -> abandoned; then removed
    state: Mapped[str] = mapped_column(default="publishing")
    published: Mapped[list[int]] = mapped_column(sa.JSON, default=list)  # task ids, first to last
    drafts: Mapped[str] = mapped_column(default="")  # file with the masks, shown or not
    created_at: Mapped[float] = mapped_column(default=0.0)
    live_at: Mapped[float] = mapped_column(default=0.0)


class Round(Base):
    """The record of one round, enough to repeat its decision."""

    __tablename__ = "rounds"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    workflow: Mapped[str] = mapped_column(unique=True)
    started_at: Mapped[float]
    ended_at: Mapped[float] = mapped_column(default=0.0)
    record: Mapped[RoundRecord] = mapped_column(default=RoundRecord)


class Action(Base):
    """A change that a person asked for: by a button of the page, or by a command."""

    __tablename__ = "actions"
    number: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(index=True)
    at: Mapped[float]
    name: Mapped[str]  # "rollback", "resume" or "confirm"
    version: Mapped[str] = mapped_column(default="")
    # The scan whose label a person confirmed, 0 for other actions, and a digest of that label.
    task_id: Mapped[int] = mapped_column(default=0, server_default="0")
    label: Mapped[str] = mapped_column(default="", server_default="")
    origin: Mapped[str]  # "page" or "command"
    person: Mapped[str] = mapped_column(default="")  # as a trusted proxy named them, else ""


class Notice(Base):
    """An event that people are told about; the row stays while the event lasts."""

    __tablename__ = "notices"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[float]
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[float] = mapped_column(default=0.0)
    sent: Mapped[bool] = mapped_column(default=False)


class Erasure(Base):
    """A note that scans or a whole project were deleted, and must be erased from files too.

    The transaction that deletes the rows writes the note, so a kill cannot separate the two.
    """

    __tablename__ = "erasures"
    number: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    whole: Mapped[bool] = mapped_column(default=False)  # the project, not some scans of it
    task_ids: Mapped[list[int]] = mapped_column(sa.JSON, default=list)
    chunks: Mapped[list[str]] = mapped_column(default=list)  # files that hold their embeddings
    # Progress: erased from the files that all machines share, and from SQLite's own file and log.
    files_done: Mapped[bool] = mapped_column(default=False)
    database_done: Mapped[bool] = mapped_column(default=False)


class Worker(Base):
    """A running worker: it counts its heartbeats here, and deletes the row when it stops."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    release: Mapped[str]
    started_at: Mapped[float]
    beat_at: Mapped[float]  # by the worker's own clock
    beats: Mapped[int] = mapped_column(default=0)


def pin_key(project_id: int) -> str:
    """Return the key under which `Meta` holds a project's pinned publication."""
    return f"pinned in project {project_id}"
