"""The tables; their rows are handed out detached, as plain records."""

from __future__ import annotations

from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backend.storage.records import ModelQuality, RecordColumn, RoundRecord

WIPED = "deleted rows are overwritten"  # a fact of a database that was never without it


class Base(DeclarativeBase):
    """Tables; their rows are handed out detached, as plain records."""

    type_annotation_map: ClassVar = {
        dict[str, Any]: sa.JSON,
        list[str]: sa.JSON,
        ModelQuality: RecordColumn(ModelQuality),
        RoundRecord: RecordColumn(RoundRecord),
    }


class Meta(Base):
    """Facts of the installation: id, schema version, webhooks' secret, what a person pinned."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Project(Base):
    """One Label Studio project: what it wants, what it shows, what is wrong with it."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # The refresh request: two counters. (Some columns have older names than their attributes.)
    requested: Mapped[int] = mapped_column("wanted", default=0)
    completed: Mapped[int] = mapped_column("done", default=0)
    # Since when a request waits that is not completed.
    waits_since: Mapped[float] = mapped_column(default=0.0, server_default="0")
    full_sync: Mapped[bool] = mapped_column(default=True)
    # What `requested` became when a full sync was last asked for.
    full_requested: Mapped[int] = mapped_column("full_wanted", default=0, server_default="0")
    # What `requested` became when a person last pressed Start Training: until `completed` is there,
    # a round is due, however few labels have changed.
    train_requested: Mapped[int] = mapped_column("train_wanted", default=0, server_default="0")
    # Taken out by a person; only a connection takes the project up again.
    disconnected: Mapped[bool] = mapped_column("gone", default=False)
    # Since when Label Studio says that it has no such project; 0 while it has it. The timer goes on
    # asking, and takes the project up again by itself.
    vanished_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    title: Mapped[str] = mapped_column(default="")
    # By which Label Studio's own addresses may go in task data; never called.
    hostname: Mapped[str] = mapped_column(default="")
    label_config: Mapped[str] = mapped_column(sa.Text, default="")
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # What the last sync saw, for the timer to compare with.
    seen: Mapped[dict[str, Any]] = mapped_column(default=dict)
    full_synced_at: Mapped[float] = mapped_column(default=0.0)
    fingerprint: Mapped[str] = mapped_column(default="")
    live_version: Mapped[str] = mapped_column(default="")
    # Of the last drafts that were compared, as the page shows it; none while it is unknown: their
    # Dice, the share of them that was submitted unchanged, and the Dice of the others.
    draft_dice: Mapped[float | None]
    unchanged_drafts: Mapped[float | None]
    changed_draft_dice: Mapped[float | None]
    # What is going on, for the page.
    step: Mapped[str] = mapped_column(default="")
    step_at: Mapped[float] = mapped_column(default=0.0)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    warnings: Mapped[list[str]] = mapped_column(default=list)
    options_problem: Mapped[str] = mapped_column(default="")
    # Since when Label Studio's events are refused; 0 while they are not.
    webhook_refused_at: Mapped[float] = mapped_column(default=0.0, server_default="0")
    problem: Mapped[str] = mapped_column(default="")
    fix: Mapped[str] = mapped_column("mend", default="")
    problem_at: Mapped[float] = mapped_column(default=0.0)
    # When the next refresh may start.
    failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[float] = mapped_column(default=0.0)
    started_at: Mapped[float] = mapped_column(default=0.0)
    publish_seconds: Mapped[float] = mapped_column(default=0.0)
    # Workers that died in the round under way.
    deaths: Mapped[int] = mapped_column(default=0, server_default="0")
    # Since when the storage of the scans counts as away, 0 for not.
    storage_away_since: Mapped[float] = mapped_column(default=0.0, server_default="0")


class Sighting(Base):
    """A project that somebody named in a call of /setup; a worker asks Label Studio about it."""

    __tablename__ = "sightings"
    project_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]


class Task(Base):
    """A scan of the project as Label Studio lists it, and what we learnt from its pixels."""

    __tablename__ = "tasks"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(sa.Text, default="")
    group: Mapped[str] = mapped_column(default="")
    updated_at: Mapped[str] = mapped_column(default="")
    is_labeled: Mapped[bool] = mapped_column(default=False)
    height: Mapped[int] = mapped_column(default=0)
    width: Mapped[int] = mapped_column(default=0)
    pixels: Mapped[str] = mapped_column(default="")  # a digest: equal scans share a group
    problem: Mapped[str] = mapped_column(sa.Text, default="")
    retry_at: Mapped[float] = mapped_column(default=0.0)
    # How long the last wait for another try was.
    pause: Mapped[float] = mapped_column(default=0.0, server_default="0")
    # The worker that reads and embeds this scan at the moment, and how many workers died while they
    # did so, since the last time that went well.
    read_by: Mapped[str] = mapped_column(default="", server_default="")
    deaths: Mapped[int] = mapped_column(default=0, server_default="0")


class Annotation(Base):
    """A submitted annotation, kept as Label Studio gave it."""

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


class Embedding(Base):
    """Where a scan's embedding lies: a row of a chunk file."""

    __tablename__ = "embeddings"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    encoder: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(primary_key=True)
    chunk: Mapped[str]
    row: Mapped[int]


class Split(Base):
    """Which side a labelled scan is on; validation membership only grows."""

    __tablename__ = "splits"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(primary_key=True)
    validation: Mapped[bool]


class DraftScore(Base):
    """How good a draft was: its Dice against what the person then submitted."""

    __tablename__ = "draft_scores"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[str]
    created_at: Mapped[str]  # of the annotation
    dice: Mapped[float]

    @property
    def unchanged(self) -> bool:
        """Whether the person submitted every pixel of the draft as it was, an empty draft too."""
        return self.dice == 1.0


class Model(Base):
    """A trained network, under a key that follows from what it was trained on."""

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


class Erasure(Base):
    """A note that scans, or a whole project, were deleted: their traces in files have to go, too.

    It is written in the transaction that deletes the rows, so no kill can come in between.
    """

    __tablename__ = "erasures"
    number: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    whole: Mapped[bool] = mapped_column(default=False)  # the project, not some scans of it
    task_ids: Mapped[list[int]] = mapped_column(sa.JSON, default=list)
    chunks: Mapped[list[str]] = mapped_column(default=list)  # files that hold their embeddings
    # What is done: the files that all machines share, and the database's own file and log.
    files_done: Mapped[bool] = mapped_column(default=False)
    database_done: Mapped[bool] = mapped_column(default=False)


class Worker(Base):
    """A worker that lives: it counts its beats here, and its row goes when it does."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    release: Mapped[str]
    started_at: Mapped[float]
    beat_at: Mapped[float]  # by the worker's own clock
    beats: Mapped[int] = mapped_column(default=0)


def pin_key(project_id: int) -> str:
    """Return the key of the fact which publication a person pinned."""
    return f"pinned in project {project_id}"
