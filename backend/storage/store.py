"""What a project knows: its tasks and annotations, embeddings, splits, versions and rounds.

One small database, shared by the web process and the worker. Transactions are short and never
held across a call to Label Studio, a download or a training.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from backend.errors import ConfigError, NotFound, StorageError

SCHEMA_VERSION = "1"
WEB_BUSY_MS = 500
WORKER_BUSY_MS = 10_000
CREATION = 0xF125  # names the lock under which tables are made in PostgreSQL
GONE_SECONDS = 20  # for a PostgreSQL that takes nothing any more, less than workers wait for one
SETTLE_SECONDS = 2.0
PURGE_BUSY_SECONDS = 0.1
WIPED = "deleted rows are overwritten"  # a fact of a database that was never without it
RETRY_SCAN_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 3_600.0
KILLER_PAUSE_SECONDS = 86_400.0  # before a scan that killed its worker is tried again
LONGEST_BACKOFF_SECONDS = 300.0  # after refreshes that failed
MOST_FAILURES = 10  # counted in a row; it stands for more as well
LEAST_SECONDS_BETWEEN_ROUNDS = 20.0
MOST_SECONDS_BETWEEN_ROUNDS = 3_600.0  # unless an option asks for more
DOUBTED = 1.0  # the time at which a project vanished that an earlier release let go
MOST_SIGHTINGS = 100  # at once: a flood of made-up projects fills no database


class Base(DeclarativeBase):
    """Tables; their rows are handed out detached, as plain records."""

    type_annotation_map: ClassVar = {dict[str, Any]: sa.JSON, list[str]: sa.JSON}


class Meta(Base):
    """Facts of the installation: id, schema version, webhooks' secret, what a person pinned."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Project(Base):
    """One Label Studio project: what it wants, what it shows, what is wrong with it."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    wanted: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    # Since when what is wanted and not done is wanted.
    waits_since: Mapped[float] = mapped_column(default=0.0, server_default="0")
    full_sync: Mapped[bool] = mapped_column(default=True)
    # What `wanted` became when a full sync was last asked for.
    full_wanted: Mapped[int] = mapped_column(default=0, server_default="0")
    # What `wanted` became when a person last pressed Start Training: until `done` comes that far,
    # a round is due, however few labels have changed.
    train_wanted: Mapped[int] = mapped_column(default=0, server_default="0")
    # Taken out by a person; only a connection takes the project up again. (Its column is older.)
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
    mend: Mapped[str] = mapped_column(default="")
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
    # JSON. Brush masks are long: only `Store.results` reads them.
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
    quality: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Version(Base):
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
    record: Mapped[dict[str, Any]] = mapped_column(default=dict)


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


class Store:
    """The database, as the questions that the service asks of it."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One short transaction; errors of the database come out as StorageError."""
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except sa.exc.SQLAlchemyError as error:
            raise explained(error) from error

    # -- the installation -----------------------------------------------------------------------

    def create(self) -> None:
        """Make the tables, and the id by which this installation is told from others.

        Raises:
            StorageError: When the database was written by another schema.
        """
        try:
            with self._alone():
                new = not sa.inspect(self.engine).has_table(Meta.__tablename__)
                Base.metadata.create_all(self.engine)
                if Project.__table__.c.vanished_at in _add_columns(self.engine):
                    self._doubt_disconnections()
        except sa.exc.DatabaseError as error:
            raise explained(error) from error
        except OSError as error:
            raise StorageError(
                f"The database cannot be opened ({error.strerror}).", "Check DATA_DIR."
            ) from error
        self._once("installation", secrets.token_hex(4))
        if new:
            self._once(WIPED, "yes")
        found = self._once("schema", SCHEMA_VERSION)
        if found != SCHEMA_VERSION:
            raise ConfigError(
                f"The database has schema {found}, this release reads {SCHEMA_VERSION}.",
                "Use the release that wrote it, or start with an empty DATA_DIR.",
            )

    def _doubt_disconnections(self) -> None:
        """Ask Label Studio again about every project that an earlier release let go.

        That release took any answer of 404 for a disconnection, so nobody knows which were meant.
        """
        let_go = sa.update(Project).where(Project.disconnected)
        with self.session() as session:
            session.execute(let_go.values(disconnected=False, vanished_at=DOUBTED))

    def answer(self, project: Project | None) -> str:
        """Return the version that /setup answers: the live one, else this installation's name.

        Label Studio keeps the answer in the project's backend entry, and by it we know our own.
        """
        if project is not None and project.live_version:
            return project.live_version
        return f"firstlight-{self.installation}"

    def ping(self) -> None:
        """Read one row.

        Raises:
            StorageError: When the database does not answer.
        """
        with self.session() as session:
            session.get(Meta, "installation")

    @property
    def installation(self) -> str:
        """Eight hex digits, the same for as long as the database lives."""
        return self._once("installation", secrets.token_hex(4))

    @property
    def webhook_secret(self) -> str:
        """The secret that webhooks bring where WEBHOOK_SECRET is not set; made once."""
        return self._once("webhook secret", secrets.token_urlsafe(32))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes starting at once would both see no tables, and lock each other out."""
        path = sqlite_path(self.engine.url.render_as_string(hide_password=False))
        if path:
            with FileLock(f"{path}.lock"):
                yield
        elif self.engine.dialect.name == "postgresql":
            with self.engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATION)))
                yield
        else:  # SQLite in memory, which is nobody else's
            yield

    def _once(self, key: str, value: str) -> str:
        with self.session() as session:
            found = session.get(Meta, key)
            if found is not None:
                return found.value
        try:
            with self.session() as session:
                session.add(Meta(key=key, value=value))
            return value
        except StorageError:
            with self.session() as session:
                other = session.get(Meta, key)
                if other is None:
                    raise
                return other.value

    # -- counters -------------------------------------------------------------------------------

    def want(
        self,
        project_id: int,
        *,
        full: bool = False,
        connected: bool = False,
        train: bool = False,
    ) -> None:
        """Ask for a refresh: `wanted += 1`, and a full sync if told so.

        News may have mended what failed, so a project that waits after a failure waits no longer.
        A project heard of for the first time waits: Label Studio saves its entry after the call.

        Args:
            project_id: The project.
            full: Whether everything has to be read again.
            connected: Whether Label Studio has just shown an entry of ours: then a project that was
                disconnected is taken up again. No other news does that.
            train: Whether a person asked for a round: then the refresh makes one, however few
                labels have changed.
        """
        soon = self.clock() + SETTLE_SECONDS
        waits_longer = sa.and_(Project.failures > 0, Project.not_before > soon)
        away = sa.or_(Project.disconnected, Project.vanished_at > 0)
        values: dict[str, Any] = {
            "wanted": Project.wanted + 1,
            "waits_since": sa.case(
                # Nobody waited for a project while it was away.
                (sa.or_(Project.wanted == Project.done, away), self.clock()),
                else_=Project.waits_since,
            ),
            "disconnected": False,
            "vanished_at": 0.0,
            "not_before": sa.case((sa.or_(waits_longer, away), soon), else_=Project.not_before),
        }
        if full:
            values |= {"full_sync": True, "full_wanted": Project.wanted + 1}
        if train:
            values |= {"train_wanted": Project.wanted + 1}
        served = sa.true() if connected else ~Project.disconnected
        statement = sa.update(Project).where(Project.id == project_id, served).values(values)
        with self.session() as session:
            found = session.execute(statement).rowcount  # type: ignore[attr-defined]
            if not found and session.get(Project, project_id) is None:
                first = Project(id=project_id, wanted=1, not_before=soon, waits_since=self.clock())
                session.add(first)

    def due(self) -> list[int]:
        """Return projects whose refresh may start now, longest waiting first."""
        now = self.clock()
        query = sa.select(Project).where(
            Project.wanted > Project.done, ~Project.disconnected, Project.vanished_at == 0
        )
        with self.session() as session:
            found = [one for one in session.scalars(query) if pause_left(one, now) <= 0]
        return [one.id for one in sorted(found, key=lambda one: one.started_at)]

    def project(self, project_id: int) -> Project | None:
        """Return one project, or None when nobody has connected it."""
        with self.session() as session:
            return session.get(Project, project_id)

    def known(self, project_id: int) -> Project:
        """Return one project.

        Raises:
            NotFound: When nobody has connected it.
        """
        found = self.project(project_id)
        if found is None:
            raise NotFound(
                f"Project {project_id} is not known here.",
                f"Connect it: python -m backend connect {project_id}. A project that was just "
                "connected is known some seconds later.",
            )
        return found

    def projects(self) -> list[Project]:
        """Return every project, by id."""
        with self.session() as session:
            return list(session.scalars(sa.select(Project).order_by(Project.id)))

    def update(self, project_id: int, **values: Any) -> None:
        """Set columns of a project."""
        with self.session() as session:
            session.execute(sa.update(Project).where(Project.id == project_id).values(**values))

    def forget(self, project_id: int) -> None:
        """Delete everything that is known of a project, and note that its files have to go."""
        pin = sa.delete(Meta).where(Meta.key == _pin(project_id))
        with self.session() as session:
            session.add(Erasure(project_id=project_id, whole=True))
            session.execute(pin)
            session.execute(sa.delete(Project).where(Project.id == project_id))
            for table in (Task, Annotation, Embedding, Split, DraftScore, Model, Version, Round):
                session.execute(sa.delete(table).where(table.project_id == project_id))

    def update_unless_moved(self, project: Project, **values: Any) -> bool:
        """Write into a project's row unless it has moved on since it was read; return whether.

        A wish, a refresh, a rollback or a disconnect in between knows better.
        """
        moves = ("wanted", "done", "failures", "live_version", "disconnected", "vanished_at")
        same = [getattr(Project, name) == getattr(project, name) for name in moves]
        statement = sa.update(Project).where(Project.id == project.id, *same).values(values)
        with self.session() as session:
            return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]

    def vanish(self, project: Project) -> bool:
        """Note that Label Studio has no such project, unless it has moved on; return whether.

        The timer goes on asking for it, and takes it up again.
        """
        now = self.clock()
        return self.update_unless_moved(
            project,
            vanished_at=project.vanished_at or now,
            problem="Label Studio has no such project any more, or hides it from this token.",
            mend="It is asked for again by itself. If it was deleted, say so: "
            f"python -m backend disconnect {project.id}",
            problem_at=project.vanished_at or now,
        )

    def synced(self, project: Project, seen: dict[str, Any]) -> None:
        """Note what a sync saw; a full one that was asked for meanwhile stays asked for."""
        self.update(project.id, seen=seen, full_sync=Project.full_wanted > project.wanted)

    def enter(self, project_id: int, step: str, **progress: Any) -> None:
        """Say what the project is doing now; an empty step means idle."""
        self.update(project_id, step=step, step_at=self.clock(), progress=progress)

    def advance(self, project_id: int, number: int) -> None:
        """Count that many more as done in the progress of a step that several workers share."""
        with self.session() as session:
            query = sa.select(Project).where(Project.id == project_id).with_for_update()
            found = session.scalars(query).one_or_none()
            if found is not None:
                done = int(found.progress.get("done", 0)) + number
                found.progress = {**found.progress, "done": done}

    # -- projects that /setup named -----------------------------------------------------------

    def sight(self, project_id: int) -> None:
        """Note that a call of /setup named a project; beyond MOST_SIGHTINGS nothing is noted."""
        with self.session() as session:
            known = session.scalar(sa.select(sa.func.count()).select_from(Sighting)) or 0
            # The first time stays: to look for the project makes Label Studio name it again.
            if known < MOST_SIGHTINGS and session.get(Sighting, project_id) is None:
                session.add(Sighting(project_id=project_id, at=self.clock()))

    def sightings(self) -> list[Sighting]:
        """Return the projects that /setup named and nobody has looked for yet, oldest first."""
        with self.session() as session:
            return list(session.scalars(sa.select(Sighting).order_by(Sighting.at)))

    def drop_sighting(self, project_id: int) -> None:
        """Forget that /setup named a project."""
        with self.session() as session:
            session.execute(sa.delete(Sighting).where(Sighting.project_id == project_id))

    # -- workers --------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """Return the workers that nobody has taken for gone, longest at work first."""
        query = sa.select(Worker).order_by(Worker.started_at, Worker.name)
        with self.session() as session:
            return list(session.scalars(query))

    def join(self, name: str, host: str, release: str) -> None:
        """Note that a worker begins."""
        now = self.clock()
        row = Worker(name=name, host=host, release=release, started_at=now, beat_at=now)
        with self.session() as session:
            session.add(row)

    def beat(self, name: str) -> bool:
        """Count a beat of a worker; return False when it was taken for gone."""
        with self.session() as session:
            counted = session.execute(
                sa.update(Worker)
                .where(Worker.name == name)
                .values(beats=Worker.beats + 1, beat_at=self.clock())
            )
            return counted.rowcount == 1  # type: ignore[attr-defined,no-any-return]

    def dismiss(self, name: str, beats: int | None = None) -> None:
        """Take a worker for gone, unless it has beaten since that many beats."""
        gone = sa.delete(Worker).where(Worker.name == name)
        with self.session() as session:
            session.execute(gone if beats is None else gone.where(Worker.beats == beats))

    # -- the ledger of tasks and annotations ----------------------------------------------------

    def tasks(self, project_id: int) -> list[Task]:
        """Return all scans of a project by id."""
        return self._of(Task, project_id, Task.id)

    def some_tasks(self, project_id: int, task_ids: Sequence[int]) -> list[Task]:
        """Return these scans of a project by id; those it does not have are left out."""
        with self.session() as session:
            return list(session.scalars(_among(Task, project_id, task_ids).order_by(Task.id)))

    def addresses(self, project_id: int, task_ids: Sequence[int]) -> dict[int, str]:
        """Return the addresses of those of these scans that the project has, by task id."""
        query = sa.select(Task.id, Task.url).where(Task.project_id == project_id)
        found: dict[int, str] = {}
        with self.session() as session:
            for part in _parts(task_ids):
                found.update(
                    (row.id, row.url) for row in session.execute(query.where(Task.id.in_(part)))
                )
        return found

    def save_tasks(self, project_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert or update tasks by id; a changed address forgets what its pixels said."""
        with self.session() as session:
            wanted = [row["id"] for row in rows]
            known = {task.id: task for task in session.scalars(_among(Task, project_id, wanted))}
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
        """Forget tasks that Label Studio no longer has, with everything known of them."""
        kept = set(task_ids)
        query = sa.select(Task.id).where(Task.project_id == project_id)
        with self.session() as session:
            deleted = sorted(set(session.scalars(query)) - kept)
            delete_tasks(session, project_id, deleted)

    def newest_task(self, project_id: int) -> tuple[int, str]:
        """Return the task that changed last as far as is known, and when; (0, "") for no task."""
        query = (
            sa.select(Task.id, Task.updated_at)
            .where(Task.project_id == project_id)
            .order_by(Task.updated_at.desc())
            .limit(1)
        )
        with self.session() as session:
            found = session.execute(query).first()
            return (found.id, found.updated_at) if found else (0, "")

    def update_task(self, project_id: int, task_id: int, **values: Any) -> None:
        """Set columns of one task."""
        with self.session() as session:
            session.execute(
                sa.update(Task)
                .where(Task.project_id == project_id, Task.id == task_id)
                .values(**values)
            )

    def looked_at(self, project_id: int, scans: Sequence[Mapping[str, Any]]) -> None:
        """Note what was learnt from scans that could be read: `height`, `width` and `pixels`.

        Args:
            project_id: Whose they are.
            scans: One mapping a scan, with its `task` id; one that is gone meanwhile is no matter.
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
        with self.session() as session:
            session.connection().execute(update, list(scans))

    def unreadable(
        self, project_id: int, task_id: int, problem: str, least: float = RETRY_SCAN_SECONDS
    ) -> None:
        """Note that a scan cannot be read; the wait for the next try doubles up to an hour.

        Args:
            project_id: The project.
            task_id: The scan.
            problem: Why it cannot be read, and how to fix it.
            least: The shortest wait, in seconds.
        """
        for task in self.some_tasks(project_id, [task_id]):
            grown = min(2 * task.pause, LONGEST_RETRY_SECONDS) if task.problem else 0.0
            pause = max(grown, least)
            retry_at = self.clock() + pause
            self.update_task(project_id, task_id, problem=problem, retry_at=retry_at, pause=pause)

    def unreadable_tasks(self, project_id: int) -> list[Task]:
        """Return the scans that cannot be read."""
        query = sa.select(Task).where(Task.project_id == project_id, Task.problem != "")
        with self.session() as session:
            return list(session.scalars(query))

    def retry_unreadable(self, project_id: int) -> None:
        """Let the scans that could not be read be tried again at once, but for those that kill."""
        unreadable = sa.update(Task).where(
            Task.project_id == project_id, Task.problem != "", Task.deaths == 0
        )
        with self.session() as session:
            session.execute(unreadable.values(retry_at=0.0))

    def update_reading(self, project_id: int, task_ids: Sequence[int], **values: Any) -> None:
        """Set `read_by` or `deaths` of some scans."""
        with self.session() as session:
            for part in _parts(task_ids):
                session.execute(
                    sa.update(Task)
                    .where(Task.project_id == project_id, Task.id.in_(part))
                    .values(**values)
                )

    def count_death_in_round(self, project_id: int, number: int = 1) -> int:
        """Count the death of a worker that had a refresh of a project under way.

        Returns:
            How many have died in this refresh and in the ones before that did not end either.
        """
        count = (
            sa.update(Project)
            .where(Project.id == project_id)
            .values(deaths=Project.deaths + number)
            .returning(Project.deaths)
        )
        with self.session() as session:
            return session.execute(count).scalar_one_or_none() or 0

    def stop_reading(self, worker: str) -> None:
        """Note that a worker ends in order: the scans that it was reading did it no harm."""
        with self.session() as session:
            session.execute(sa.update(Task).where(Task.read_by == worker).values(read_by=""))

    def count_deaths(self, workers: Collection[str]) -> dict[int, list[int]]:
        """Count the deaths of workers against the scans that they were reading.

        Returns:
            The task ids of these scans, by project.
        """
        found: dict[int, list[int]] = {}
        query = sa.select(Task).where(Task.read_by.in_(workers)).order_by(Task.id)
        with self.session() as session:
            for task in session.scalars(query.with_for_update()):
                task.read_by, task.deaths = "", task.deaths + 1
                found.setdefault(task.project_id, []).append(task.id)
        return found

    def annotations(self, project_id: int) -> list[Annotation]:
        """Return all annotations of a project, oldest first."""
        return self._of(Annotation, project_id, Annotation.id)

    def annotation_counts(
        self, project_id: int, task_ids: Sequence[int]
    ) -> dict[int, tuple[int, int]]:
        """Return how many annotations a task has, and how many skips, by task id."""
        skipped = sa.func.count().filter(Annotation.cancelled)
        query = sa.select(Annotation.task_id, sa.func.count() - skipped, skipped).where(
            Annotation.project_id == project_id
        )
        found: dict[int, tuple[int, int]] = {}
        with self.session() as session:
            for part in _parts(task_ids):
                rows = session.execute(
                    query.where(Annotation.task_id.in_(part)).group_by(Annotation.task_id)
                )
                found |= {task_id: (submitted, skips) for task_id, submitted, skips in rows}
        return found

    def replace_annotations(
        self, project_id: int, task_ids: Sequence[int], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Make `rows` the only annotations of these tasks; what is known already is not written.

        An id may be known of another task: Label Studio moves annotations between tasks, and after
        a restored backup it gives ids out again.
        """
        known = _among(Annotation, project_id, [row["id"] for row in rows])
        with self.session() as session:
            there = {row.id: row for row in session.scalars(known)}
            same = {row["id"] for row in rows if _is_same(there.get(row["id"]), row)}
            for part in _parts(task_ids):
                former = sa.delete(Annotation).where(
                    Annotation.project_id == project_id, Annotation.task_id.in_(part)
                )
                session.execute(former.where(Annotation.id.not_in(same)))
            changed = [{"project_id": project_id, **row} for row in rows if row["id"] not in same]
            for part in _parts([row["id"] for row in changed]):
                elsewhere = sa.delete(Annotation).where(
                    Annotation.project_id == project_id, Annotation.id.in_(part)
                )
                session.execute(elsewhere)
            if changed:
                session.execute(sa.insert(Annotation), changed)

    def results(self, project_id: int, annotation_ids: Sequence[int]) -> list[list[Any]]:
        """Return what was drawn in each of these annotations, as Label Studio gave it."""
        query = sa.select(Annotation.id, Annotation.result).where(
            Annotation.project_id == project_id, Annotation.id.in_(annotation_ids)
        )
        with self.session() as session:
            found = {row.id: json.loads(row.result) for row in session.execute(query)}
        return [found[annotation_id] for annotation_id in annotation_ids]

    # -- embeddings, splits, draft scores -------------------------------------------------------

    def embeddings(self, project_id: int, encoder: str) -> dict[int, Embedding]:
        """Return where each scan's embedding lies, by task id."""
        query = sa.select(Embedding).where(
            Embedding.project_id == project_id, Embedding.encoder == encoder
        )
        with self.session() as session:
            return {found.task_id: found for found in session.scalars(query)}

    def save_embeddings(
        self, project_id: int, encoder: str, chunk: str, task_ids: Sequence[int]
    ) -> None:
        """Note that row i of `chunk` is the embedding of task_ids[i]."""
        whose = {"project_id": project_id, "encoder": encoder, "chunk": chunk}
        rows = [{**whose, "task_id": task_id, "row": row} for row, task_id in enumerate(task_ids)]
        former = sa.delete(Embedding).where(
            Embedding.project_id == project_id, Embedding.encoder == encoder
        )
        with self.session() as session:
            # Two workers that embed the same scans take turns: both would delete, and then insert.
            session.execute(sa.select(Project.id).where(Project.id == project_id).with_for_update())
            for part in _parts(task_ids):
                session.execute(former.where(Embedding.task_id.in_(part)))
            known = {task.id for task in session.scalars(_among(Task, project_id, task_ids))}
            if there := [row for row in rows if row["task_id"] in known]:
                session.execute(sa.insert(Embedding), there)
            if gone := sorted(set(task_ids) - known):  # deleted while they were embedded
                session.add(Erasure(project_id=project_id, task_ids=gone, chunks=[chunk]))

    def chunks(self, project_id: int) -> set[str]:
        """Return the names of the files that embeddings lie in."""
        query = sa.select(Embedding.chunk).where(Embedding.project_id == project_id).distinct()
        with self.session() as session:
            return set(session.scalars(query))

    def forget_embeddings(self, project_id: int, chunks: Collection[str]) -> None:
        """Forget what lay in files that are lost: their scans are embedded again."""
        with self.session() as session:
            for part in _parts(sorted(chunks)):
                session.execute(
                    sa.delete(Embedding).where(
                        Embedding.project_id == project_id, Embedding.chunk.in_(part)
                    )
                )

    def rows_of(self, project_id: int, chunks: Collection[str]) -> dict[str, set[int]]:
        """Return the rows that are some scan's embedding, for each of these files."""
        found: dict[str, set[int]] = {chunk: set() for chunk in chunks}
        query = sa.select(Embedding.chunk, Embedding.row).where(Embedding.project_id == project_id)
        with self.session() as session:
            for part in _parts(sorted(chunks)):
                for chunk, row in session.execute(query.where(Embedding.chunk.in_(part))):
                    found[chunk].add(row)
        return found

    def splits(self, project_id: int) -> dict[int, bool]:
        """Return the side of every scan that ever counted as labelled: True is validation."""
        return {row.task_id: row.validation for row in self._of(Split, project_id, Split.task_id)}

    def save_splits(self, project_id: int, sides: Mapping[int, bool]) -> None:
        """Store the sides of scans."""
        with self.session() as session:
            for task_id, validation in sides.items():
                session.merge(Split(project_id=project_id, task_id=task_id, validation=validation))

    def draft_scores(self, project_id: int) -> list[DraftScore]:
        """Return the Dice of every draft that a person's mask was compared with, oldest first."""
        return self._of(DraftScore, project_id, DraftScore.created_at)

    def save_draft_score(self, score: DraftScore) -> None:
        """Store one comparison of a draft with what was submitted."""
        with self.session() as session:
            session.merge(score)

    # -- what was deleted and has to go from files, too -----------------------------------------

    def erasures(self, after: int = 0) -> list[Erasure]:
        """Return the notes of deleted scans and projects with a number above `after`, in order."""
        query = sa.select(Erasure).where(Erasure.number > after).order_by(Erasure.number)
        with self.session() as session:
            return list(session.scalars(query))

    def erasures_to_do(self) -> list[Erasure]:
        """Return the notes that files or the database still have to follow, in order."""
        left = sa.or_(~Erasure.files_done, ~Erasure.database_done)
        with self.session() as session:
            return list(session.scalars(sa.select(Erasure).where(left).order_by(Erasure.number)))

    def note_erased(self, numbers: Sequence[int], **done: bool) -> None:
        """Set `files_done` or `database_done` of some notes."""
        with self.session() as session:
            for part in _parts(numbers):
                session.execute(sa.update(Erasure).where(Erasure.number.in_(part)).values(**done))

    def purge_log(self) -> bool:
        """Leave nothing of deleted rows in the files of SQLite; return whether that succeeded.

        It fails while another connection reads or writes; then try again. Another database cares
        for its own files: this returns True.
        """
        path = sqlite_path(self.engine.url.render_as_string(hide_password=False))
        if path is None:
            return True
        wiped = self._wiped()
        try:
            with closing(sqlite3.connect(path, timeout=PURGE_BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                if not wiped:
                    connection.execute("VACUUM")  # once: it writes the whole file anew
                    self._once(WIPED, "yes")
                # For as long as this waits nobody can write, hence the short time.
                [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:  # locked
            return False
        return not busy

    def _wiped(self) -> bool:
        """Return whether all that was ever deleted here was overwritten as well."""
        with self.session() as session:
            return session.get(Meta, WIPED) is not None

    # -- models, versions, rounds ---------------------------------------------------------------

    def model(self, project_id: int, key: str) -> Model | None:
        """Return a trained model by its key."""
        with self.session() as session:
            return session.get(Model, (project_id, key))

    def models(self, project_id: int) -> list[Model]:
        """Return every trained model, oldest first; the weights of most are gone."""
        return self._of(Model, project_id, Model.created_at)

    def save_model(self, model: Model) -> None:
        """Store what is known of a trained model."""
        with self.session() as session:
            session.merge(model)

    def versions(self, project_id: int) -> list[Version]:
        """Return every published version, oldest first."""
        return self._of(Version, project_id, Version.created_at)

    def version(self, project_id: int, name: str) -> Version | None:
        """Return one version by its name."""
        with self.session() as session:
            return session.get(Version, (project_id, name))

    def versions_by_state(self) -> dict[int, dict[str, int]]:
        """Return how many versions are in which state, by project, counted by the database."""
        query = sa.select(Version.project_id, Version.state, sa.func.count())
        found: dict[int, dict[str, int]] = {}
        with self.session() as session:
            for project_id, state, number in session.execute(
                query.group_by(Version.project_id, Version.state).order_by(Version.state)
            ):
                found.setdefault(project_id, {})[state] = number
        return found

    def live(self) -> dict[int, tuple[float, dict[str, Any]]]:
        """Return since when each project's queue is live, and the quality of its model.

        Neither the queue nor what the model was trained on is read; {} stands for no model.
        """
        query = (
            sa.select(Project.id, Version.live_at, Model.quality)
            .join(
                Version,
                sa.and_(Version.project_id == Project.id, Version.name == Project.live_version),
            )
            .outerjoin(
                Model, sa.and_(Model.project_id == Project.id, Model.key == Version.model_key)
            )
        )
        with self.session() as session:
            return {number: (at, quality or {}) for number, at, quality in session.execute(query)}

    def save_version(self, version: Version) -> None:
        """Store a version."""
        with self.session() as session:
            session.merge(version)

    def pinned(self, project_id: int) -> str:
        """Return the name of the version that a person pinned, "" while training decides."""
        with self.session() as session:
            found = session.get(Meta, _pin(project_id))
            return found.value if found else ""

    def pin(self, project_id: int, version: str) -> None:
        """Pin a version, or none with ""."""
        with self.session() as session:
            session.merge(Meta(key=_pin(project_id), value=version))

    def go_live(self, project_id: int, name: str, **project: Any) -> None:
        """Make one version the live one, in the same moment for everybody who asks."""
        with self.session() as session:
            mine = sa.update(Version).where(Version.project_id == project_id)
            session.execute(
                mine.where(Version.state == "live", Version.name != name).values(state="previous")
            )
            session.execute(
                mine.where(Version.name == name).values(state="live", live_at=self.clock())
            )
            session.execute(
                sa.update(Project)
                .where(Project.id == project_id)
                .values(live_version=name, **project)
            )

    def round_of(self, project_id: int, workflow: str) -> Round:
        """Return the round of a workflow, opening it with the next number if it is new."""
        with self.session() as session:
            query = sa.select(Round).where(Round.workflow == workflow)
            found = session.scalars(query).one_or_none()
            if found is None:
                _end_rounds(session, project_id, self.clock(), "It was cut off, and done anew.")
                last = session.scalar(
                    sa.select(sa.func.max(Round.number)).where(Round.project_id == project_id)
                )
                found = Round(
                    project_id=project_id,
                    number=(last or 0) + 1,
                    workflow=workflow,
                    started_at=self.clock(),
                )
                session.add(found)
            return found

    def open_round(self, project_id: int) -> int:
        """Return the number of the round under way, 0 for none."""
        query = sa.select(sa.func.max(Round.number)).where(
            Round.project_id == project_id, Round.ended_at == 0
        )
        with self.session() as session:
            return session.scalar(query) or 0

    def abort_rounds(self, project_id: int, error: str) -> None:
        """Give rounds that were cut off an end, and the reason."""
        with self.session() as session:
            _end_rounds(session, project_id, self.clock(), error)

    def add_seconds(self, project_id: int, number: int, step: str, seconds: float) -> None:
        """Note how long a step of a round took."""
        with self.session() as session:
            found = session.get_one(Round, (project_id, number))
            times = {**found.record.get("seconds", {}), step: round(seconds, 2)}
            found.record = {**found.record, "seconds": times}

    def close_round(self, project_id: int, number: int, record: Mapping[str, Any]) -> None:
        """Add what is known to a round's record and give it an end."""
        with self.session() as session:
            found = session.get_one(Round, (project_id, number))
            found.record = {**found.record, **record}
            found.ended_at = self.clock()

    def last_round(self, project_id: int) -> int:
        """Return the number of the newest round, 0 before the first."""
        query = sa.select(sa.func.max(Round.number)).where(Round.project_id == project_id)
        with self.session() as session:
            return session.scalar(query) or 0

    def rounds(self, project_id: int) -> list[Round]:
        """Return every round, first to last."""
        return self._of(Round, project_id, Round.number)

    def records(self) -> dict[int, list[dict[str, Any]]]:
        """Return what is recorded of every round, by project."""
        found: dict[int, list[dict[str, Any]]] = {}
        with self.session() as session:
            for project_id, record in session.execute(sa.select(Round.project_id, Round.record)):
                found.setdefault(project_id, []).append(record)
        return found

    def _of(self, table: Any, project_id: int, order: Any) -> list[Any]:
        query = sa.select(table).where(table.project_id == project_id).order_by(order)
        with self.session() as session:
            return list(session.scalars(query))


def open_store(url: str, *, busy_ms: int = WEB_BUSY_MS) -> Store:
    """Open the database; on SQLite with write-ahead logging and a bounded wait for locks.

    Raises:
        ConfigError: When DATABASE_URL is no address, or its driver is not installed.
    """
    try:
        # Parameters are addresses of scans and masks: no business of an error message.
        # A server that was started again has forgotten the connections kept here: ask before use.
        engine = sa.create_engine(
            url, hide_parameters=True, pool_pre_ping=True, connect_args=bounds(url)
        )
    except (sa.exc.ArgumentError, ImportError) as error:
        raise ConfigError(
            f"DATABASE_URL cannot be used ({type(error).__name__}).",
            "Write sqlite:///file or postgresql+psycopg://user:password@host/database.",
        ) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", lambda connection, _: _tune(connection, busy_ms))
    return Store(engine)


def open_known(url: str) -> Store:
    """Open the database that the service keeps, for a command beside it.

    Raises:
        ConfigError: When there is none, or it was written by another schema.
        StorageError: When it cannot be opened.
    """
    path = sqlite_path(url)
    if path and not path.exists():
        raise ConfigError(
            f"Nothing is known yet: there is no {path.name} in {path.parent}.",
            "Point DATA_DIR at the folder of the service, or start it: python -m backend start",
        )
    store = open_store(url, busy_ms=WORKER_BUSY_MS)
    store.create()
    return store


def is_damage(error: Exception) -> bool:
    """Return whether a database failed because its file is no longer whole."""
    # SQLite's driver has no word of its own for it, and its words for all else are subclasses.
    return type(error) is sa.exc.DatabaseError


def explained(error: sa.exc.SQLAlchemyError) -> StorageError:
    """Return what an error of the database means, and what to do."""
    if isinstance(error, sa.exc.IntegrityError):
        return StorageError(
            "Two rows of the database contradict each other (IntegrityError).",
            "This is a defect of Firstlight: please report it with the worker's log. Everything is "
            "read from Label Studio again.",
        )
    if is_damage(error):
        return StorageError(
            "The database is damaged: a part of its file cannot be read.",
            "Stop the service and put a backup of firstlight.sqlite back. Without one move the "
            "file away: every label is safe in Label Studio, and all else is made anew.",
        )
    return StorageError(
        f"The database did not answer ({type(error).__name__}).",
        "Check DATA_DIR (free space, rights) or DATABASE_URL; the work is tried again.",
    )


def sqlite_path(url: str) -> Path | None:
    """Return the file behind a SQLite address, or None for another database."""
    parsed = sa.make_url(url)
    on_disk = parsed.get_backend_name() == "sqlite" and parsed.database
    return Path(parsed.database) if on_disk and parsed.database else None


def worker_lock(database: Path) -> Path:
    """Return the file that the only worker on a SQLite database holds a lock on.

    It lies beside the database, so that workers with different DATA_DIRs meet there.
    """
    return database.resolve().with_name(f"{database.name}.worker.lock")


def bounds(url: str) -> dict[str, int]:
    """Return how long to wait for a server that no longer answers at all; else minutes pass."""
    if sa.make_url(url).get_backend_name() != "postgresql":
        return {}
    return {"connect_timeout": 5, "tcp_user_timeout": 1000 * GONE_SECONDS}


def _tune(connection: Any, busy_ms: int) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {busy_ms:d}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA secure_delete = ON")  # deleted rows are overwritten, not just unlinked
    cursor.close()


def _add_columns(engine: sa.Engine) -> list[sa.Column[Any]]:
    """Add and return the columns that databases of this schema were first written without.

    Such a column has a default of the database's own: rows from before it have to have a value.
    """
    added = _missing(engine)
    for column in added:
        definition = sa.schema.CreateColumn(column).compile(dialect=engine.dialect)
        add = sa.text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
        try:
            with engine.begin() as connection:
                connection.execute(add)
        except sa.exc.ProgrammingError:
            if column in _missing(engine):  # else the other process was faster
                raise
    return added


def _missing(engine: sa.Engine) -> list[sa.Column[Any]]:
    known = sa.inspect(engine)
    return [
        column
        for table in Base.metadata.sorted_tables
        for there in [{found["name"] for found in known.get_columns(table.name)}]
        for column in table.columns
        if column.name not in there
    ]


def _pin(project_id: int) -> str:
    return f"pinned in project {project_id}"


def spacing(project: Project) -> float:
    """Return the least seconds between the starts of two rounds."""
    chosen = project.options.get("min_seconds_between_rounds")
    if chosen is not None:
        return float(chosen)
    wanted = max(LEAST_SECONDS_BETWEEN_ROUNDS, 10 * project.publish_seconds)
    return min(wanted, MOST_SECONDS_BETWEEN_ROUNDS)


def pause_left(project: Project, now: float) -> float:
    """Return the seconds until a project's next refresh may start, 0 or less if it may now.

    A pause that was written down while the clock was ahead does not count. A refresh that started
    in the future tells of such a clock, and so does a pause beyond the longest one.
    """
    left = project.not_before - now
    impossible = left > max(LONGEST_BACKOFF_SECONDS, spacing(project))
    return 0.0 if impossible or project.started_at > now else left


def is_retried(task: Task, now: float) -> bool:
    """Return whether a scan that could not be read is to be tried again.

    A try that lies further ahead than the scan's pause was set by a clock that was ahead.
    """
    return not now < task.retry_at <= now + task.pause


def _among(table: Any, project_id: int, ids: Sequence[int]) -> sa.Select[Any]:
    return sa.select(table).where(table.project_id == project_id, table.id.in_(ids))


def _is_same(known: Annotation | None, row: Mapping[str, Any]) -> bool:
    """Return whether an annotation is known as it is; a change of its result has a new time."""
    return known is not None and all(
        getattr(known, name) == value for name, value in row.items() if name != "result"
    )


def delete_tasks(session: Session, project_id: int, task_ids: Sequence[int]) -> None:
    """Delete all rows of some tasks, and note that their traces in files have to go."""
    _note_erasure(session, project_id, task_ids)
    for part in _parts(task_ids):
        for table, column in (
            (Task, Task.id),
            (Annotation, Annotation.task_id),
            (Embedding, Embedding.task_id),
            (Split, Split.task_id),
            (DraftScore, DraftScore.task_id),
        ):
            session.execute(
                sa.delete(table).where(table.project_id == project_id, column.in_(part))
            )


def _forget_pixels(session: Session, project_id: int, tasks: Sequence[Task]) -> None:
    """Forget what was learnt from the pixels of scans whose address is another one now."""
    ids = [task.id for task in tasks]
    _note_erasure(session, project_id, ids)
    for task in tasks:
        task.pixels, task.problem, task.retry_at, task.height, task.width = "", "", 0.0, 0, 0
        task.deaths = 0
    of_project = sa.delete(Embedding).where(Embedding.project_id == project_id)
    for part in _parts(ids):
        session.execute(of_project.where(Embedding.task_id.in_(part)))


def _note_erasure(session: Session, project_id: int, task_ids: Sequence[int]) -> None:
    """Note which scans have to go from files. Not after their rows of embeddings are deleted."""
    if not task_ids:
        return
    query = sa.select(Embedding.chunk).where(Embedding.project_id == project_id)
    chunks: set[str] = set()
    for part in _parts(task_ids):
        chunks.update(session.scalars(query.where(Embedding.task_id.in_(part)).distinct()))
    note = {"task_ids": list(task_ids), "chunks": sorted(chunks)}
    session.add(Erasure(project_id=project_id, **note))


def _end_rounds(session: Session, project_id: int, now: float, error: str) -> None:
    open_rounds = sa.select(Round).where(Round.project_id == project_id, Round.ended_at == 0)
    for found in session.scalars(open_rounds):
        found.record = {**found.record, "error": error}
        found.ended_at = now


def _parts(ids: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """Yield slices that fit into one IN (...) of every database."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
