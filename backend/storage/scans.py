"""The scans of a project: Label Studio's tasks, and whether their images can be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from backend.storage.database import Database, among, in_parts
from backend.storage.records import REVIEW, ReviewRecord
from backend.storage.tables import (
    Annotation,
    DraftScore,
    Embedding,
    Erasure,
    MaskComparison,
    Split,
    StudyResult,
    Task,
)

RETRY_SCAN_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 3_600.0
KILLER_PAUSE_SECONDS = 86_400.0  # one day until a scan that killed its worker is tried again


class ListedScan(NamedTuple):
    """What the ledger needs of a scan's row. Whole rows take several times as long to read."""

    id: int
    url: str
    group: str
    source: str
    place: float | None
    is_labeled: bool
    overlap: int
    height: int
    width: int
    pixels: str
    problem: str


class Scans:
    """The tasks' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, project_id: int) -> list[Task]:
        """Return all scans of a project by id."""
        return self._database.of(Task, project_id, Task.id)

    def listed(self, project_id: int) -> list[ListedScan]:
        """Return all scans of a project by id."""
        columns = [getattr(Task, name) for name in ListedScan._fields]
        query = sa.select(*columns).where(Task.project_id == project_id).order_by(Task.id)
        with self._database.session() as session:
            # By the connection: the session takes half as long again for each row.
            return [ListedScan(*row) for row in session.connection().execute(query)]

    def unembedded(self, project_id: int, encoder: str) -> list[Task]:
        """Return the scans without an embedding, and those that cannot be read, by id."""
        embedded = sa.exists().where(
            Embedding.project_id == Task.project_id,
            Embedding.task_id == Task.id,
            Embedding.encoder == encoder,
        )
        query = (
            sa.select(Task)
            .where(Task.project_id == project_id, ~embedded | (Task.problem != ""))
            .order_by(Task.id)
        )
        with self._database.session() as session:
            return list(session.scalars(query))

    def some(self, project_id: int, task_ids: Sequence[int]) -> list[Task]:
        """Return these scans of a project by id; unknown ids are left out."""
        with self._database.session() as session:
            return list(session.scalars(among(Task, project_id, task_ids).order_by(Task.id)))

    def addresses(self, project_id: int, task_ids: Sequence[int]) -> dict[int, str]:
        """Return the addresses of these scans by task id; unknown ids are left out."""
        query = sa.select(Task.id, Task.url).where(Task.project_id == project_id)
        urls: dict[int, str] = {}
        with self._database.session() as session:
            for part in in_parts(task_ids):
                urls.update(
                    (row.id, row.url) for row in session.execute(query.where(Task.id.in_(part)))
                )
        return urls

    def save(self, project_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert or update tasks by id; a changed address deletes what was read from its pixels."""
        with self._database.session() as session:
            ids = [row["id"] for row in rows]
            known = {task.id: task for task in session.scalars(among(Task, project_id, ids))}
            moved = [
                known[row["id"]]
                for row in rows
                if row["id"] in known and known[row["id"]].url != row["url"]
            ]
            _forget_pixels(session, project_id, moved)
            for row in rows:
                task = known.get(row["id"])
                if task is None:
                    session.add(Task(project_id=project_id, **row))
                    continue
                for name, value in row.items():
                    setattr(task, name, value)

    def keep_only(self, project_id: int, task_ids: Collection[int]) -> None:
        """Delete all tasks but these, with everything known of them."""
        kept = set(task_ids)
        query = sa.select(Task.id).where(Task.project_id == project_id)
        with self._database.session() as session:
            deleted = sorted(set(session.scalars(query)) - kept)
            delete_tasks(session, project_id, deleted)

    def newest(self, project_id: int) -> tuple[int, str]:
        """Return the id and time of the newest known change of a task; (0, "") without tasks."""
        query = (
            sa.select(Task.id, Task.updated_at)
            .where(Task.project_id == project_id)
            .order_by(Task.updated_at.desc())
            .limit(1)
        )
        with self._database.session() as session:
            task = session.execute(query).first()
            return (task.id, task.updated_at) if task else (0, "")

    def update(self, project_id: int, task_id: int, **values: Any) -> None:
        """Set columns of one task."""
        with self._database.session() as session:
            session.execute(
                sa.update(Task)
                .where(Task.project_id == project_id, Task.id == task_id)
                .values(**values)
            )

    def note_pixels(self, project_id: int, scans: Sequence[Mapping[str, Any]]) -> None:
        """Store what reading the scans showed: `height`, `width` and `pixels`.

        Args:
            project_id: The project.
            scans: One mapping a scan, with its `task` id; scans deleted meanwhile are ignored.
        """
        update = (
            sa.update(Task)
            .where(Task.project_id == project_id, Task.id == sa.bindparam("task"))
            .values(
                height=sa.bindparam("height"),
                width=sa.bindparam("width"),
                pixels=sa.bindparam("pixels"),
                problem="",
            )
        )
        with self._database.session() as session:
            session.connection().execute(update, list(scans))

    def mark_unreadable(
        self, project_id: int, task_id: int, problem: str, least: float = RETRY_SCAN_SECONDS
    ) -> None:
        """Note that a scan cannot be read; the wait for the next try doubles up to an hour.

        Args:
            project_id: The project.
            task_id: The scan.
            problem: Why it cannot be read, and how to fix it.
            least: The shortest wait, in seconds.
        """
        for task in self.some(project_id, [task_id]):
            grown = min(2 * task.pause, LONGEST_RETRY_SECONDS) if task.problem else 0.0
            pause = max(grown, least)
            retry_at = self._database.clock() + pause
            self.update(project_id, task_id, problem=problem, retry_at=retry_at, pause=pause)

    def unreadable(self, project_id: int) -> list[Task]:
        """Return the scans that cannot be read."""
        query = sa.select(Task).where(Task.project_id == project_id, Task.problem != "")
        with self._database.session() as session:
            return list(session.scalars(query))

    def retry_unreadable(self, project_id: int) -> None:
        """End the pauses of unreadable scans, except those that killed workers."""
        unreadable = sa.update(Task).where(
            Task.project_id == project_id, Task.problem != "", Task.deaths == 0
        )
        with self._database.session() as session:
            session.execute(unreadable.values(retry_at=0.0))

    def update_reading(self, project_id: int, task_ids: Sequence[int], **values: Any) -> None:
        """Set `read_by` or `deaths` of some scans."""
        with self._database.session() as session:
            for part in in_parts(task_ids):
                session.execute(
                    sa.update(Task)
                    .where(Task.project_id == project_id, Task.id.in_(part))
                    .values(**values)
                )

    def stop_reading(self, worker: str) -> None:
        """Note that a worker stops normally: the scans that it was reading are harmless."""
        with self._database.session() as session:
            session.execute(sa.update(Task).where(Task.read_by == worker).values(read_by=""))

    def count_deaths(self, workers: Collection[str]) -> dict[int, list[int]]:
        """Count the deaths of workers against the scans that they were reading.

        Returns:
            The task ids of these scans, by project.
        """
        by_project: dict[int, list[int]] = {}
        query = sa.select(Task).where(Task.read_by.in_(workers)).order_by(Task.id)
        with self._database.session() as session:
            for task in session.scalars(query.with_for_update()):
                task.read_by, task.deaths = "", task.deaths + 1
                by_project.setdefault(task.project_id, []).append(task.id)
        return by_project


def is_retried(task: Task, now: float) -> bool:
    """Return whether an unreadable scan is to be tried again now.

    A next try further ahead than the scan's pause was set by a wrong clock, and counts as due.
    """
    return not now < task.retry_at <= now + task.pause


def delete_tasks(session: Session, project_id: int, task_ids: Sequence[int]) -> None:
    """Delete all rows of some tasks, and note that their traces in files must be erased."""
    _note_erasure(session, project_id, task_ids)
    for part in in_parts(task_ids):
        for table, column in (
            (Task, Task.id),
            (Annotation, Annotation.task_id),
            (MaskComparison, MaskComparison.task_id),
            (Embedding, Embedding.task_id),
            (Split, Split.task_id),
            (DraftScore, DraftScore.task_id),
        ):
            session.execute(
                sa.delete(table).where(table.project_id == project_id, column.in_(part))
            )


def _forget_pixels(session: Session, project_id: int, tasks: Sequence[Task]) -> None:
    """Delete what was read from the pixels of scans whose address has changed."""
    ids = [task.id for task in tasks]
    _note_erasure(session, project_id, ids)
    for task in tasks:
        task.pixels, task.problem, task.retry_at, task.height, task.width = "", "", 0.0, 0, 0
        task.deaths = 0
    of_project = sa.delete(Embedding).where(Embedding.project_id == project_id)
    for part in in_parts(ids):
        session.execute(of_project.where(Embedding.task_id.in_(part)))


def _note_erasure(session: Session, project_id: int, task_ids: Sequence[int]) -> None:
    """Note the scans to erase from files, and take them out of the review of the labels.

    Call it before their rows of embeddings are deleted.
    """
    if not task_ids:
        return
    review = session.get(StudyResult, (project_id, REVIEW))
    if review is not None:
        review.record = ReviewRecord.model_validate(review.record).without(task_ids).written()
    query = sa.select(Embedding.chunk).where(Embedding.project_id == project_id)
    chunks: set[str] = set()
    for part in in_parts(task_ids):
        chunks.update(session.scalars(query.where(Embedding.task_id.in_(part)).distinct()))
    note = {"task_ids": list(task_ids), "chunks": sorted(chunks)}
    session.add(Erasure(project_id=project_id, **note))
