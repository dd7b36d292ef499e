"""The ledger: which scans a project has, and which of its annotations count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import sqlalchemy as sa

from backend.settings import ProjectOptions
from backend.storage.store import Store
from backend.storage.tables import Annotation, DraftScore, Project, Task
from model import validation

RECENT_DRAFTS = 5  # compared drafts whose quality is told


@dataclass(frozen=True)
class Ledger:
    """A project's scans and annotations as last synced, both by id."""

    tasks: list[Task]
    annotations: list[Annotation]

    @cached_property
    def unreadable(self) -> dict[int, str]:
        """Why a scan cannot be read, by task id."""
        return {task.id: task.problem for task in self.tasks if task.problem}

    @cached_property
    def ignored(self) -> dict[int, str]:
        """Why an annotation does not count, by its id."""
        reasons = ((found.id, self._why_ignored(found)) for found in self.annotations)
        return {annotation_id: why for annotation_id, why in reasons if why}

    @cached_property
    def usable(self) -> dict[int, list[Annotation]]:
        """The annotations that count, by task id, in the order of the first of each task."""
        found: dict[int, list[Annotation]] = {}
        for annotation in self.annotations:
            if annotation.id not in self.ignored:
                found.setdefault(annotation.task_id, []).append(annotation)
        return found

    @cached_property
    def skipped(self) -> frozenset[int]:
        """Tasks that somebody skipped and nobody labelled."""
        skipped = {found.task_id for found in self.annotations if found.cancelled}
        return frozenset(skipped - self.usable.keys())

    @cached_property
    def open(self) -> frozenset[int]:
        """Tasks that Label Studio would still serve."""
        return frozenset(task.id for task in self.tasks if not task.is_labeled)

    @cached_property
    def complete(self) -> bool:
        """Whether every scan that can be read is labelled."""
        readable = {task.id for task in self.tasks} - self.unreadable.keys()
        return bool(readable) and readable <= self.usable.keys()

    @cached_property
    def groups(self) -> dict[int, int]:
        """The group of every scan by task id: scans that share `group_by` or their pixels.

        Scans nobody labelled yet count, too: what they will join once labelled is joined already.
        """
        keys = [task.group for task in self.tasks]
        numbers = validation.group(keys, [task.pixels for task in self.tasks]).tolist()
        return dict(zip((task.id for task in self.tasks), numbers, strict=True))

    @property
    def label_keys(self) -> list[str]:
        """What the labels are, so that a changed label is a new key."""
        return [key for task_id in self.usable for key in self.keys_of(task_id)]

    def keys_of(self, task_id: int) -> list[str]:
        """The keys of one task's labels."""
        return [f"{found.id}@{found.updated_at}" for found in self.usable[task_id]]

    def changed_since(self, keys: Iterable[str]) -> int:
        """Return how many labels came, went or changed since their keys were these."""
        # A corrected label is another key of the same annotation.
        return len({key.partition("@")[0] for key in {*keys} ^ {*self.label_keys}})

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(task.id for task in self.tasks)

    def _why_ignored(self, annotation: Annotation) -> str:
        if annotation.cancelled:
            return "skipped"
        if annotation.problem:
            return annotation.problem
        if annotation.task_id not in self._known:
            return "its scan is not in the project"
        problem = self.unreadable.get(annotation.task_id)
        return f"its scan cannot be read: {problem}" if problem else ""


def read(store: Store, project_id: int) -> Ledger:
    """Return the ledger as it stands, without the masks."""
    return Ledger(
        tasks=store.scans.all(project_id), annotations=store.labels.annotations(project_id)
    )


def counts(store: Store, project_id: int) -> tuple[object, ...]:
    """Return figures that change when the ledger does, counted by the database: no row is read."""
    count = sa.func.count()
    figures = {
        Task: (
            count,
            sa.func.max(Task.updated_at),
            count.filter(Task.is_labeled),
            count.filter(Task.problem != ""),
        ),
        Annotation: (
            count,
            sa.func.max(Annotation.updated_at),
            sa.func.max(Annotation.id),
            count.filter(Annotation.cancelled),
            count.filter(Annotation.problem != ""),
        ),
        DraftScore: (count, sa.func.max(DraftScore.created_at)),
    }
    with store.session() as session:
        return tuple(
            tuple(session.execute(_figures_of(table, columns, project_id)).one())
            for table, columns in figures.items()
        )


def totals(store: Store, project_id: int) -> dict[str, int]:
    """Return the counters of a project by Label Studio's names, counted by the database."""
    count = sa.func.count()
    annotations = (count.filter(~Annotation.cancelled), count.filter(Annotation.cancelled))
    with store.session() as session:
        tasks = session.execute(_figures_of(Task, (count,), project_id)).scalar_one()
        submitted, skipped, truth = session.execute(
            _figures_of(
                Annotation, (*annotations, count.filter(Annotation.ground_truth)), project_id
            )
        ).one()
    return {
        "task_number": tasks,
        "total_annotations_number": submitted,
        "skipped_annotations_number": skipped,
        "ground_truth_number": truth,
    }


def usable_labels(store: Store) -> dict[int, int]:
    """Return how many scans have an annotation that counts, by project, counted by the database."""
    query = (
        sa.select(Annotation.project_id, sa.func.count(sa.distinct(Annotation.task_id)))
        .join(
            Task, sa.and_(Task.project_id == Annotation.project_id, Task.id == Annotation.task_id)
        )
        .where(~Annotation.cancelled, Annotation.problem == "", Task.problem == "")
        .group_by(Annotation.project_id)
    )
    with store.session() as session:
        return {project_id: count for project_id, count in session.execute(query)}


@dataclass(frozen=True)
class ScanCounts:
    """How many scans a project has, and how many of them are not at hand."""

    all: int = 0
    unreadable: int = 0
    unseen: int = 0  # never read, and not known to be unreadable


def scans(store: Store) -> dict[int, ScanCounts]:
    """Return the number of scans by project, counted by the database."""
    count = sa.func.count()
    query = sa.select(
        Task.project_id,
        count,
        count.filter(Task.problem != ""),
        count.filter(Task.problem == "", Task.pixels == ""),
    ).group_by(Task.project_id)
    with store.session() as session:
        return {number: ScanCounts(*counts) for number, *counts in session.execute(query)}


def _figures_of(table: Any, columns: tuple[Any, ...], project_id: int) -> sa.Select[Any]:
    return sa.select(*columns).select_from(table).where(table.project_id == project_id)


def quality_drafts(store: Store, project_id: int, now: Ledger) -> list[DraftScore]:
    """Return the compared drafts that tell how good the model is, oldest first.

    Left out are those on scans of groups that the draft's model had been trained on: another slice
    of a known patient, or the same image again, looks better than a new patient will.
    """
    scores = store.labels.draft_scores(project_id)
    if not scores:
        return []
    key_of = {version.name: version.model_key for version in store.publications.all(project_id)}
    seen = {
        model.key: {now.groups[task_id] for task_id in model.trained_on if task_id in now.groups}
        for model in store.publications.models(project_id)
    }
    return [
        score
        for score in scores
        if now.groups.get(score.task_id) not in seen.get(key_of.get(score.version, ""), ())
    ]


@dataclass(frozen=True)
class DraftQuality:
    """How good some compared drafts were.

    An unchanged draft was right, or nobody looked at it closely. So the Dice of the changed ones
    is told beside the Dice of all.

    Attributes:
        compared: Number of drafts.
        unchanged: How many of them were submitted unchanged.
        dice: Mean Dice of all, None without a draft.
        changed_dice: Mean Dice of those that were changed, None without such a draft.
    """

    compared: int
    unchanged: int
    dice: float | None
    changed_dice: float | None

    @classmethod
    def of(cls, scores: Sequence[DraftScore]) -> DraftQuality:
        """Return how good these drafts were."""
        changed = [score.dice for score in scores if not score.unchanged]
        return cls(
            compared=len(scores),
            unchanged=len(scores) - len(changed),
            dice=fmean(score.dice for score in scores) if scores else None,
            changed_dice=fmean(changed) if changed else None,
        )

    @property
    def share_unchanged(self) -> float | None:
        """Return the share that was submitted unchanged, None without a draft."""
        return self.unchanged / self.compared if self.compared else None


def stored_options(project: Project) -> ProjectOptions:
    """Return the last valid options of a project."""
    return ProjectOptions(**project.options)
