"""The annotators' numbers, the comparisons of their masks, and the figures made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa

from backend.storage.artifacts import digest
from backend.storage.database import Database
from backend.storage.records import LabelRecord
from backend.storage.tables import Annotator, LabelFigures, MaskComparison


class Annotators:
    """The rows of annotators, comparisons and label figures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def numbers(self, project_id: int, users: Iterable[int]) -> dict[int, int]:
        """Return the number of each of these users in a project; a new user gets the next number.

        Args:
            project_id: The project.
            users: Ids of Label Studio's users, in the order in which new ones are numbered.
        """
        known = {row.user: row.number for row in self.all(project_id)}
        new = [user for user in dict.fromkeys(users) if user not in known]
        if new:
            following = range(max(known.values(), default=0) + 1, len(known) + len(new) + 1)
            added = dict(zip(new, following, strict=True))
            with self._database.session() as session:
                for user, number in added.items():
                    session.add(Annotator(project_id=project_id, user=user, number=number))
            known |= added
        return known

    def all(self, project_id: int) -> list[Annotator]:
        """Return the annotators of a project, by number."""
        return self._database.of(Annotator, project_id, Annotator.number)

    def comparisons(self, project_id: int) -> list[MaskComparison]:
        """Return the stored comparisons of a project, by task."""
        return self._database.of(MaskComparison, project_id, MaskComparison.task_id)

    def save_comparison(self, project_id: int, **row: Any) -> None:
        """Store the comparison of two annotations in place of an earlier one."""
        with self._database.session() as session:
            session.merge(MaskComparison(project_id=project_id, **row))

    def drop_comparisons(self, project_id: int, pairs: Collection[tuple[int, int]]) -> None:
        """Delete the comparisons of these pairs of annotation ids."""
        with self._database.session() as session:
            for first, second in pairs:
                session.execute(
                    sa.delete(MaskComparison).where(
                        MaskComparison.project_id == project_id,
                        MaskComparison.first == first,
                        MaskComparison.second == second,
                    )
                )

    def figures(self, project_id: int) -> LabelRecord:
        """Return the figures of a project's labels, empty before the first were computed."""
        with self._database.session() as session:
            row = session.get(LabelFigures, project_id)
            return row.record if row else LabelRecord()

    def figures_digest(self, project_id: int) -> str:
        """Return a digest of the figures, "" without any; other figures have another digest."""
        query = sa.select(LabelFigures.digest).where(LabelFigures.project_id == project_id)
        with self._database.session() as session:
            return session.execute(query).scalar_one_or_none() or ""

    def save_figures(self, project_id: int, record: LabelRecord) -> None:
        """Store the figures of a project's labels, unless they are unchanged."""
        name = digest(record.written())
        if name != self.figures_digest(project_id):
            row = LabelFigures(project_id=project_id, digest=name, record=record)
            with self._database.session() as session:
                session.merge(row)
