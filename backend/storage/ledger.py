"""The ledger: which scans a project has, and which of its annotations count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from backend.options import ProjectOptions
from backend.storage.scans import ListedScan
from backend.storage.store import Store
from backend.storage.tables import Annotation, DraftScore, Project, Task
from model import validation

RECENT_DRAFTS = 5  # number of compared drafts in the quality that the page shows


@dataclass(frozen=True)
class Ledger:
    """A project's scans and annotations as last synced, both by id."""

    tasks: list[ListedScan]
    annotations: list[Annotation]

    @cached_property
    def scans(self) -> dict[int, ListedScan]:
        """The scans by task id."""
        return {task.id: task for task in self.tasks}

    @cached_property
    def unreadable(self) -> dict[int, str]:
        """The reasons why scans cannot be read, by task id."""
        return {task.id: task.problem for task in self.tasks if task.problem}

    @cached_property
    def ignored(self) -> dict[int, str]:
        """The reasons why annotations do not count, by annotation id."""
        reasons = ((each.id, self._why_ignored(each)) for each in self.annotations)
        return {annotation_id: why for annotation_id, why in reasons if why}

    @cached_property
    def usable(self) -> dict[int, list[Annotation]]:
        """The annotations that count, by task id; tasks in the order of their first annotation."""
        by_task: dict[int, list[Annotation]] = {}
        for annotation in self.annotations:
            if annotation.id not in self.ignored:
                by_task.setdefault(annotation.task_id, []).append(annotation)
        return by_task

    @cached_property
    def skipped(self) -> frozenset[int]:
        """Tasks that were skipped and are not labelled."""
        skipped = {each.task_id for each in self.annotations if each.cancelled}
        return frozenset(skipped - self.usable.keys())

    @cached_property
    def open(self) -> frozenset[int]:
        """Tasks that Label Studio would still serve."""
        return frozenset(task.id for task in self.tasks if not task.is_labeled)

    @cached_property
    def waiting(self) -> frozenset[int]:
        """Readable tasks that Label Studio would serve and that have no usable label."""
        return self.open - self.unreadable.keys() - self.usable.keys()

    @cached_property
    def complete(self) -> bool:
        """Whether every readable scan is labelled."""
        readable = self.scans.keys() - self.unreadable.keys()
        return bool(readable) and readable <= self.usable.keys()

    @cached_property
    def groups(self) -> dict[int, int]:
        """The group of every scan by task id: scans share it by `group_by` or equal pixels.

        Unlabelled scans count too: a scan must not change its group when it is labelled.
        """
        keys = [task.group for task in self.tasks]
        numbers = validation.group(keys, [task.pixels for task in self.tasks]).tolist()
        return dict(zip((task.id for task in self.tasks), numbers, strict=True))

    @cached_property
    def sources(self) -> dict[int, str]:
        """The source of every scan that has one, by task id; see `source_by`."""
        return {task.id: task.source for task in self.tasks if task.source}

    @cached_property
    def places(self) -> dict[int, float]:
        """The place in its volume of every slice that has one, by task id; see `slice_by`."""
        return {task.id: task.place for task in self.tasks if task.place is not None}

    @property
    def label_keys(self) -> list[str]:
        """One key per label; a changed label gets a new key."""
        return [key for task_id in self.usable for key in self.keys_of(task_id)]

    def keys_of(self, task_id: int) -> list[str]:
        """The keys of one task's labels."""
        return [f"{label.id}@{label.updated_at}" for label in self.usable[task_id]]

    def changed_since(self, keys: Iterable[str]) -> int:
        """Return how many labels were added, deleted or changed since these keys were taken."""
        # A corrected label counts once: its old and new key start with the same annotation id.
        return len({key.partition("@")[0] for key in {*keys} ^ {*self.label_keys}})

    def _why_ignored(self, annotation: Annotation) -> str:
        if annotation.cancelled:
            return "skipped"
        if annotation.problem:
            return annotation.problem
        if annotation.task_id not in self.scans:
            return "its scan is not in the project"
        problem = self.unreadable.get(annotation.task_id)
        return f"its scan cannot be read: {problem}" if problem else ""


def read(store: Store, project_id: int) -> Ledger:
    """Return the ledger as last synced, without the masks."""
    return Ledger(
        tasks=store.scans.listed(project_id), annotations=store.labels.annotations(project_id)
    )


def counts(store: Store, project_id: int) -> tuple[object, ...]:
    """Return figures that change with the ledger; the database counts, and no row is loaded."""
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
    """How many scans a project has, and how many are unreadable or not yet read."""

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
    """Return the scored drafts that measure the model's quality, oldest first.

    Drafts of groups that their model was trained on are left out: another slice of a known patient,
    or the same image again, scores higher than a new patient will.
    """
    scores = store.labels.draft_scores(project_id)
    if not scores:
        return []
    key_of = {version.name: version.model_key for version in store.publications.all(project_id)}
    seen = {
        key: {now.groups[task_id] for task_id in trained_on if task_id in now.groups}
        for key, trained_on in store.publications.trained_on(project_id).items()
    }
    return [
        score
        for score in scores
        if now.groups.get(score.task_id) not in seen.get(key_of.get(score.version, ""), ())
    ]


@dataclass(frozen=True)
class DraftQuality:
    """The quality of some scored drafts.

    An unchanged draft may be right, or the annotator did not check it closely. So the Dice of the
    changed drafts stands beside the Dice of all drafts.

    Attributes:
        compared: Number of drafts.
        unchanged: Number of drafts that were submitted unchanged.
        dice: Mean Dice of all drafts, None without a draft.
        changed_dice: Mean Dice of the changed drafts, None without such a draft.
    """

    compared: int
    unchanged: int
    dice: float | None
    changed_dice: float | None

    @classmethod
    def of(cls, scores: Sequence[DraftScore]) -> DraftQuality:
        """Return the quality of these drafts."""
        changed = [score.dice for score in scores if not score.unchanged]
        return cls(
            compared=len(scores),
            unchanged=len(scores) - len(changed),
            dice=fmean(score.dice for score in scores) if scores else None,
            changed_dice=fmean(changed) if changed else None,
        )

    @property
    def share_unchanged(self) -> float | None:
        """Return the share of drafts that were submitted unchanged, None without a draft."""
        return self.unchanged / self.compared if self.compared else None


def stored_options(project: Project) -> ProjectOptions:
    """Return the last valid options of a project.

    They stay as they are if this installation no longer accepts one, as when the package with a
    network is gone: the page and /setup go on, and a round names the network that it cannot build.
    """
    try:
        return ProjectOptions(**project.options)
    except ValidationError:
        return ProjectOptions.model_construct(**project.options)
