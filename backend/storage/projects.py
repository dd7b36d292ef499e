"""The projects: their refresh requests, options, progress and problems."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from backend import PROGRAM
from backend.errors import NotFound
from backend.storage.database import Database
from backend.storage.tables import (
    Action,
    Annotation,
    Annotator,
    DraftScore,
    Embedding,
    Erasure,
    LabelFigures,
    MaskComparison,
    Meta,
    Model,
    Notice,
    Project,
    Publication,
    Round,
    Sighting,
    Split,
    StudyResult,
    Task,
    pin_key,
)

SETTLE_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 300.0  # after failed refreshes
MOST_FAILURES = 10  # failures in a row are counted up to this number
LEAST_SECONDS_BETWEEN_ROUNDS = 20.0
MOST_SECONDS_BETWEEN_ROUNDS = 3_600.0  # unless an option asks for more
MOST_SIGHTINGS = 100  # at once: a flood of made-up project ids must not fill the database


class Projects:
    """The projects' rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request_refresh(
        self,
        project_id: int,
        *,
        full: bool = False,
        connected: bool = False,
        train: bool = False,
    ) -> None:
        """Ask for a refresh: `requested += 1`, and a full sync if `full`.

        A request ends the pause after a failure, because the change may have fixed the problem. A
        new project waits a moment: Label Studio saves its ML backend entry after the call.

        Args:
            project_id: The project.
            full: Whether the sync must list all tasks.
            connected: Whether Label Studio has just shown an ML backend entry of ours. Only this
                takes a disconnected project up again.
            train: Whether a person asked for a round: the refresh then makes a round, however few
                labels have changed.
        """
        soon = self._database.clock() + SETTLE_SECONDS
        waits_longer = sa.and_(Project.failures > 0, Project.not_before > soon)
        away = sa.or_(Project.disconnected, Project.vanished_at > 0)
        values: dict[str, Any] = {
            "requested": Project.requested + 1,
            "waits_since": sa.case(
                # The time while the project was disconnected or vanished is no waiting time.
                (sa.or_(Project.requested == Project.completed, away), self._database.clock()),
                else_=Project.waits_since,
            ),
            "disconnected": False,
            "vanished_at": 0.0,
            "not_before": sa.case((sa.or_(waits_longer, away), soon), else_=Project.not_before),
        }
        if full:
            values |= {"full_sync": True, "full_requested": Project.requested + 1}
        if train:
            values |= {"train_requested": Project.requested + 1}
        served = sa.true() if connected else ~Project.disconnected
        statement = sa.update(Project).where(Project.id == project_id, served).values(values)
        with self._database.session() as session:
            updated = session.execute(statement).rowcount  # type: ignore[attr-defined]
            if not updated and session.get(Project, project_id) is None:
                first = Project(
                    id=project_id, requested=1, not_before=soon, waits_since=self._database.clock()
                )
                session.add(first)

    def due(self) -> list[int]:
        """Return projects whose refresh may start now, longest waiting first."""
        now = self._database.clock()
        query = sa.select(Project).where(
            Project.requested > Project.completed, ~Project.disconnected, Project.vanished_at == 0
        )
        with self._database.session() as session:
            due = [project for project in session.scalars(query) if pause_left(project, now) <= 0]
        return [project.id for project in sorted(due, key=lambda project: project.started_at)]

    def get(self, project_id: int) -> Project | None:
        """Return one project; None if it was never connected."""
        with self._database.session() as session:
            return session.get(Project, project_id)

    def known(self, project_id: int) -> Project:
        """Return one project.

        Raises:
            NotFound: If it was never connected.
        """
        project = self.get(project_id)
        if project is None:
            raise NotFound(
                f"Project {project_id} is not known here.",
                f"Connect it: {PROGRAM} connect {project_id}. If you have just connected "
                "it, wait some seconds.",
            )
        return project

    def all(self) -> list[Project]:
        """Return every project, by id."""
        with self._database.session() as session:
            return list(session.scalars(sa.select(Project).order_by(Project.id)))

    def update(self, project_id: int, **values: Any) -> None:
        """Set columns of a project."""
        with self._database.session() as session:
            session.execute(sa.update(Project).where(Project.id == project_id).values(**values))

    def forget(self, project_id: int) -> None:
        """Delete all rows of a project, and note that its files must be erased."""
        pin = sa.delete(Meta).where(Meta.key == pin_key(project_id))
        with self._database.session() as session:
            session.add(Erasure(project_id=project_id, whole=True))
            session.execute(pin)
            session.execute(sa.delete(Project).where(Project.id == project_id))
            for table in (
                Task,
                Annotation,
                Annotator,
                MaskComparison,
                LabelFigures,
                StudyResult,
                Embedding,
                Split,
                DraftScore,
                Model,
                Publication,
                Round,
                Action,
                Notice,
            ):
                session.execute(sa.delete(table).where(table.project_id == project_id))

    def update_unless_moved(self, project: Project, **values: Any) -> bool:
        """Update a project's row unless it has changed since it was read; return whether.

        A request, a refresh, a rollback or a disconnect in between makes these values outdated.
        """
        moves = (
            "requested",
            "completed",
            "failures",
            "live_version",
            "disconnected",
            "vanished_at",
        )
        same = [getattr(Project, name) == getattr(project, name) for name in moves]
        statement = sa.update(Project).where(Project.id == project.id, *same).values(values)
        with self._database.session() as session:
            return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]

    def vanish(self, project: Project) -> bool:
        """Mark a project as vanished unless its row has changed meanwhile; return whether.

        The timer goes on asking for the project, and takes it up again when it is back.
        """
        now = self._database.clock()
        return self.update_unless_moved(
            project,
            vanished_at=project.vanished_at or now,
            problem="Label Studio has no such project any more, or hides it from this token.",
            fix="The backend keeps asking for it. If the project was deleted, run: "
            f"{PROGRAM} disconnect {project.id}",
            problem_at=project.vanished_at or now,
        )

    def synced(self, project: Project, seen: dict[str, Any]) -> None:
        """Store what a sync saw; a full sync requested meanwhile stays requested."""
        self.update(project.id, seen=seen, full_sync=Project.full_requested > project.requested)

    def enter(self, project_id: int, step: str, **progress: Any) -> None:
        """Store the step that the project is in; an empty step means idle."""
        self.update(project_id, step=step, step_at=self._database.clock(), progress=progress)

    def advance(self, project_id: int, number: int) -> None:
        """Add `number` scans to the progress of a step that several workers share."""
        with self._database.session() as session:
            query = sa.select(Project).where(Project.id == project_id).with_for_update()
            project = session.scalars(query).one_or_none()
            if project is not None:
                done = int(project.progress.get("done", 0)) + number
                project.progress = {**project.progress, "done": done}

    def count_deaths(self, project_id: int, number: int = 1) -> int:
        """Count the death of a worker that had a refresh of a project under way.

        Returns:
            Number of deaths since a refresh of the project last ended.
        """
        count = (
            sa.update(Project)
            .where(Project.id == project_id)
            .values(deaths=Project.deaths + number)
            .returning(Project.deaths)
        )
        with self._database.session() as session:
            return session.execute(count).scalar_one_or_none() or 0

    def sight(self, project_id: int) -> None:
        """Note that a call of /setup named a project, up to MOST_SIGHTINGS projects."""
        with self._database.session() as session:
            known = session.scalar(sa.select(sa.func.count()).select_from(Sighting)) or 0
            # Keep the first time: asking Label Studio for the project makes it call /setup again.
            if known < MOST_SIGHTINGS and session.get(Sighting, project_id) is None:
                session.add(Sighting(project_id=project_id, at=self._database.clock()))

    def sightings(self) -> list[Sighting]:
        """Return the projects that /setup named and no worker has looked up yet, oldest first."""
        with self._database.session() as session:
            return list(session.scalars(sa.select(Sighting).order_by(Sighting.at)))

    def drop_sighting(self, project_id: int) -> None:
        """Forget that /setup named a project."""
        with self._database.session() as session:
            session.execute(sa.delete(Sighting).where(Sighting.project_id == project_id))


def spacing(project: Project) -> float:
    """Return the least seconds between the starts of two rounds."""
    chosen = project.options.get("min_seconds_between_rounds")
    if chosen is not None:
        return float(chosen)
    seconds = max(LEAST_SECONDS_BETWEEN_ROUNDS, 10 * project.publish_seconds)
    return min(seconds, MOST_SECONDS_BETWEEN_ROUNDS)


def pause_left(project: Project, now: float) -> float:
    """Return the seconds until a project's next refresh may start, 0 or less if it may now.

    A pause that was stored while the clock was ahead does not count. Such a clock shows by a start
    in the future, or by a pause that exceeds the longest one.
    """
    left = project.not_before - now
    impossible = left > max(LONGEST_BACKOFF_SECONDS, spacing(project))
    return 0.0 if impossible or project.started_at > now else left
