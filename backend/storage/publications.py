"""Trained models, and the queues that were published with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from backend.storage import pages
from backend.storage.database import Database, in_parts
from backend.storage.records import ModelQuality
from backend.storage.tables import (
    Action,
    Meta,
    Model,
    Project,
    Publication,
    Task,
    pin_key,
)


@dataclass(frozen=True)
class Author:
    """Who asked for a change.

    Attributes:
        origin: By which means.
        person: The name that a trusted proxy gave, "" without one.
    """

    origin: Literal["page", "command"]
    person: str = ""


COMMAND = Author("command")
RULES_OF_SLABS = 2  # TRAINING_RULES since which the Dice of a slab counts all pages together
CONFIRM = "confirm"  # the action: a person found the label of a scan right


_QUALITY = sa.type_coerce(Model.quality, sa.JSON)  # its keys can be asked for


class MeasuredModel(NamedTuple):
    """A model that was measured on held-out scans, without what was measured."""

    key: str
    labels: int
    classes: list[str]


class Publications:
    """The rows of models and publications."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def model(self, project_id: int, key: str) -> Model | None:
        """Return a trained model by its key."""
        with self._database.session() as session:
            return session.get(Model, (project_id, key))

    def newest_model(self, project_id: int) -> Model | None:
        """Return the model that was trained last."""
        query = sa.select(Model).where(Model.project_id == project_id)
        with self._database.session() as session:
            return session.scalars(query.order_by(Model.created_at.desc()).limit(1)).first()

    def newest_comparison(self, project_id: int) -> Model | None:
        """Return the newest refined model for which recipes were compared."""
        query = (
            sa.select(Model)
            .where(Model.project_id == project_id, _QUALITY["best_recipe"].as_string() != "")
            .order_by(Model.created_at.desc())
        )
        with self._database.session() as session:
            return session.scalars(query.limit(1)).first()

    def models(self, project_id: int) -> list[Model]:
        """Return every trained model, oldest first; the weights of most are deleted."""
        return self._database.of(Model, project_id, Model.created_at)

    def some_models(self, project_id: int, keys: Sequence[str]) -> list[Model]:
        """Return these models, oldest first."""
        query = sa.select(Model).where(Model.project_id == project_id)
        found: list[Model] = []
        with self._database.session() as session:
            for part in in_parts(keys):
                found += session.scalars(query.where(Model.key.in_(part)))
        return sorted(found, key=lambda model: model.created_at)

    def measured(self, project_id: int) -> list[MeasuredModel]:
        """Return the models of rounds that were measured on held-out scans, oldest first.

        Refined models are left out, and so are those that `least_rules` excludes. The records stay
        in the database: a project has a model for every few labels, and each record names up to
        500 held-out scans.
        """
        query = (
            sa.select(Model.key, Model.labels, Model.classes)
            .where(
                Model.project_id == project_id,
                sa.func.coalesce(_QUALITY["refined_from"].as_string(), "") == "",
                _QUALITY[("held_out", "dice")].as_string() != "{}",
                sa.func.coalesce(_QUALITY["rules"].as_integer(), 1) >= self.least_rules(project_id),
            )
            .order_by(Model.created_at)
        )
        with self._database.session() as session:
            return [MeasuredModel(*row) for row in session.execute(query)]

    def least_rules(self, project_id: int) -> int:
        """Return the least `ModelQuality.rules` with which Dice means what it does today."""
        slabs = sa.select(Task.id).where(
            Task.project_id == project_id, Task.url.contains(pages.SEPARATOR)
        )
        with self._database.session() as session:
            return RULES_OF_SLABS if session.scalar(slabs.limit(1)) is not None else 1

    def trained_on(self, project_id: int) -> dict[str, list[int]]:
        """Return the task ids that each model was trained on, by its key."""
        query = sa.select(Model.key, Model.trained_on).where(Model.project_id == project_id)
        with self._database.session() as session:
            return {key: task_ids for key, task_ids in session.execute(query)}

    def save_model(self, model: Model) -> None:
        """Store the row of a trained model."""
        with self._database.session() as session:
            session.merge(model)

    def all(self, project_id: int) -> list[Publication]:
        """Return every publication, oldest first."""
        return self._database.of(Publication, project_id, Publication.created_at)

    def get(self, project_id: int, name: str) -> Publication | None:
        """Return one publication by its name."""
        with self._database.session() as session:
            return session.get(Publication, (project_id, name))

    def by_state(self) -> dict[int, dict[str, int]]:
        """Return the number of publications by project and state, counted by the database."""
        query = sa.select(Publication.project_id, Publication.state, sa.func.count())
        counts: dict[int, dict[str, int]] = {}
        with self._database.session() as session:
            for project_id, state, number in session.execute(
                query.group_by(Publication.project_id, Publication.state).order_by(
                    Publication.state
                )
            ):
                counts.setdefault(project_id, {})[state] = number
        return counts

    def live(self) -> dict[int, tuple[float, ModelQuality | None]]:
        """Return by project when its queue went live, and the quality of its model, if any.

        Loads neither the queue nor the list of scans that the model was trained on.
        """
        query = (
            sa.select(Project.id, Publication.live_at, Model.quality)
            .join(
                Publication,
                sa.and_(
                    Publication.project_id == Project.id, Publication.name == Project.live_version
                ),
            )
            .outerjoin(
                Model, sa.and_(Model.project_id == Project.id, Model.key == Publication.model_key)
            )
        )
        with self._database.session() as session:
            return {number: (at, quality) for number, at, quality in session.execute(query)}

    def first_live(self) -> dict[int, float]:
        """Return by project when its first queue went live."""
        query = sa.select(Publication.project_id, sa.func.min(Publication.live_at))
        with self._database.session() as session:
            lived = query.where(Publication.live_at > 0).group_by(Publication.project_id)
            return {project_id: at for project_id, at in session.execute(lived)}

    def save(self, version: Publication) -> None:
        """Store a publication."""
        with self._database.session() as session:
            session.merge(version)

    def pinned(self, project_id: int) -> str:
        """Return the name of the pinned publication, "" if none is pinned."""
        with self._database.session() as session:
            row = session.get(Meta, pin_key(project_id))
            return row.value if row else ""

    def pin(self, project_id: int, version: str, author: Author = COMMAND) -> None:
        """Pin a publication, and note who asked for it; "" removes the pin."""
        with self._database.session() as session:
            session.merge(Meta(key=pin_key(project_id), value=version))
            session.add(
                Action(
                    project_id=project_id,
                    at=self._database.clock(),
                    name="rollback" if version else "resume",
                    version=version,
                    origin=author.origin,
                    person=author.person,
                )
            )

    def confirm(self, project_id: int, task_id: int, label: str, author: Author) -> None:
        """Note that a person found the label of a scan right.

        Args:
            project_id: The project.
            task_id: The scan.
            label: A digest of its label; another label is not confirmed.
            author: Who says so.
        """
        with self._database.session() as session:
            session.add(
                Action(
                    project_id=project_id,
                    at=self._database.clock(),
                    name=CONFIRM,
                    task_id=task_id,
                    label=label,
                    origin=author.origin,
                    person=author.person,
                )
            )

    def confirmed(self, project_id: int) -> set[tuple[int, str]]:
        """Return the labels that people found right: task ids, each with a digest of its label."""
        query = sa.select(Action.task_id, Action.label).where(
            Action.project_id == project_id, Action.name == CONFIRM
        )
        with self._database.session() as session:
            return {(task_id, label) for task_id, label in session.execute(query)}

    def actions(self, project_id: int) -> list[Action]:
        """Return what people asked for, oldest first."""
        return self._database.of(Action, project_id, Action.number)

    def go_live(self, project_id: int, name: str, **project: Any) -> None:
        """Make one publication live and the former live one previous, in one transaction."""
        with self._database.session() as session:
            mine = sa.update(Publication).where(Publication.project_id == project_id)
            session.execute(
                mine.where(Publication.state == "live", Publication.name != name).values(
                    state="previous"
                )
            )
            session.execute(
                mine.where(Publication.name == name).values(
                    state="live", live_at=self._database.clock()
                )
            )
            session.execute(
                sa.update(Project)
                .where(Project.id == project_id)
                .values(live_version=name, **project)
            )
