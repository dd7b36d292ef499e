"""Annotations, the split into training and validation, and the scores of drafts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from backend.storage.database import Database, among, in_parts
from backend.storage.tables import (
    Annotation,
    DraftScore,
    Split,
)


class Labels:
    """The rows of annotations, splits and draft scores."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def annotations(self, project_id: int) -> list[Annotation]:
        """Return all annotations of a project, oldest first."""
        return self._database.of(Annotation, project_id, Annotation.id)

    def is_usable(self, project_id: int, task_id: int) -> bool:
        """Return whether a scan, if it can be read, has an annotation that counts (`Ledger`)."""
        query = sa.select(Annotation.id).where(
            Annotation.project_id == project_id,
            Annotation.task_id == task_id,
            ~Annotation.cancelled,
            Annotation.problem == "",
        )
        with self._database.session() as session:
            return session.execute(query.limit(1)).first() is not None

    def counts(self, project_id: int, task_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return (number of annotations, number of skips) by task id."""
        skipped = sa.func.count().filter(Annotation.cancelled)
        query = sa.select(Annotation.task_id, sa.func.count() - skipped, skipped).where(
            Annotation.project_id == project_id
        )
        by_task: dict[int, tuple[int, int]] = {}
        with self._database.session() as session:
            for part in in_parts(task_ids):
                rows = session.execute(
                    query.where(Annotation.task_id.in_(part)).group_by(Annotation.task_id)
                )
                by_task |= {task_id: (submitted, skips) for task_id, submitted, skips in rows}
        return by_task

    def replace(
        self, project_id: int, task_ids: Sequence[int], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Make `rows` the only annotations of these tasks; unchanged rows are not written again.

        A row's id may be stored for another task: Label Studio moves annotations between tasks,
        and it reuses ids after a restored backup.
        """
        known = among(Annotation, project_id, [row["id"] for row in rows])
        with self._database.session() as session:
            there = {row.id: row for row in session.scalars(known)}
            same = {row["id"] for row in rows if _is_same(there.get(row["id"]), row)}
            for part in in_parts(task_ids):
                former = sa.delete(Annotation).where(
                    Annotation.project_id == project_id, Annotation.task_id.in_(part)
                )
                session.execute(former.where(Annotation.id.not_in(same)))
            changed = [{"project_id": project_id, **row} for row in rows if row["id"] not in same]
            for part in in_parts([row["id"] for row in changed]):
                elsewhere = sa.delete(Annotation).where(
                    Annotation.project_id == project_id, Annotation.id.in_(part)
                )
                session.execute(elsewhere)
            if changed:
                session.execute(sa.insert(Annotation), changed)

    def results(self, project_id: int, annotation_ids: Sequence[int]) -> list[list[Any]]:
        """Return the result of each of these annotations, as Label Studio sent it."""
        query = sa.select(Annotation.id, Annotation.result).where(
            Annotation.project_id == project_id, Annotation.id.in_(annotation_ids)
        )
        with self._database.session() as session:
            by_id = {row.id: json.loads(row.result) for row in session.execute(query)}
        return [by_id[annotation_id] for annotation_id in annotation_ids]

    def splits(self, project_id: int) -> dict[int, bool]:
        """Return the side of every scan that was ever labelled: True is validation."""
        return {
            row.task_id: row.validation
            for row in self._database.of(Split, project_id, Split.task_id)
        }

    def save_splits(self, project_id: int, sides: Mapping[int, bool]) -> None:
        """Store the sides of scans."""
        with self._database.session() as session:
            for task_id, validation in sides.items():
                session.merge(Split(project_id=project_id, task_id=task_id, validation=validation))

    def draft_scores(self, project_id: int) -> list[DraftScore]:
        """Return the score of every draft that was compared with an annotation, oldest first."""
        return self._database.of(DraftScore, project_id, DraftScore.created_at)

    def save_draft_score(self, score: DraftScore) -> None:
        """Store the score of a draft against the submitted annotation."""
        with self._database.session() as session:
            session.merge(score)


def _is_same(known: Annotation | None, row: Mapping[str, Any]) -> bool:
    """Return whether a row is stored unchanged; a changed result has a new time of change."""
    return known is not None and all(
        getattr(known, name) == value for name, value in row.items() if name != "result"
    )
