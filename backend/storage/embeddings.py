"""The index of embeddings: the file and row of each scan's embedding."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from sys import intern
from typing import NamedTuple

import sqlalchemy as sa

from backend.storage.database import Database, among, in_parts
from backend.storage.tables import (
    Embedding,
    Erasure,
    Project,
    Task,
)


class Place(NamedTuple):
    """Where an embedding lies: the name of a file, and the row in it."""

    chunk: str
    row: int


class Embeddings:
    """The rows that say which row of which file is a scan's embedding."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, project_id: int, encoder: str) -> dict[int, Place]:
        """Return the place of each scan's embedding, by task id."""
        query = sa.select(Embedding.task_id, Embedding.chunk, Embedding.row).where(
            Embedding.project_id == project_id, Embedding.encoder == encoder
        )
        with self._database.session() as session:
            rows = session.connection().execute(query)
            # One text for all rows of a file, which the database gives anew with each row.
            return {task_id: Place(intern(chunk), row) for task_id, chunk, row in rows}

    def save(self, project_id: int, encoder: str, chunk: str, task_ids: Sequence[int]) -> None:
        """Note that row i of `chunk` is the embedding of task_ids[i]."""
        whose = {"project_id": project_id, "encoder": encoder, "chunk": chunk}
        rows = [{**whose, "task_id": task_id, "row": row} for row, task_id in enumerate(task_ids)]
        former = sa.delete(Embedding).where(
            Embedding.project_id == project_id, Embedding.encoder == encoder
        )
        with self._database.session() as session:
            # Lock the project: two workers with the same scans would both delete, then both insert.
            session.execute(sa.select(Project.id).where(Project.id == project_id).with_for_update())
            for part in in_parts(task_ids):
                session.execute(former.where(Embedding.task_id.in_(part)))
            known = {task.id for task in session.scalars(among(Task, project_id, task_ids))}
            if there := [row for row in rows if row["task_id"] in known]:
                session.execute(sa.insert(Embedding), there)
            if gone := sorted(set(task_ids) - known):  # deleted while they were embedded
                session.add(Erasure(project_id=project_id, task_ids=gone, chunks=[chunk]))

    def chunks(self, project_id: int) -> set[str]:
        """Return the names of the files that hold embeddings."""
        query = sa.select(Embedding.chunk).where(Embedding.project_id == project_id).distinct()
        with self._database.session() as session:
            return set(session.scalars(query))

    def forget(self, project_id: int, chunks: Collection[str]) -> None:
        """Forget the embeddings of lost files, so that their scans are embedded again."""
        with self._database.session() as session:
            for part in in_parts(sorted(chunks)):
                session.execute(
                    sa.delete(Embedding).where(
                        Embedding.project_id == project_id, Embedding.chunk.in_(part)
                    )
                )

    def rows_of(self, project_id: int, chunks: Collection[str]) -> dict[str, set[int]]:
        """Return for each of these files the rows that belong to a scan."""
        rows: dict[str, set[int]] = {chunk: set() for chunk in chunks}
        query = sa.select(Embedding.chunk, Embedding.row).where(Embedding.project_id == project_id)
        with self._database.session() as session:
            for part in in_parts(sorted(chunks)):
                for chunk, row in session.execute(query.where(Embedding.chunk.in_(part))):
                    rows[chunk].add(row)
        return rows
