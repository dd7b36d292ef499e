"""The worker: runs refreshes where they are wanted, and looks for changes nobody told it of.

It is crash-only. SIGTERM ends it as SIGKILL would, since every step of a round may be repeated;
what was under way goes on after the next start, or on another worker: at once when this one could
say that it ends, else when it has been silent for a while.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dbos import DBOS, SetEnqueueOptions
from dbos import error as dbos_error
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from backend import logs
from backend.errors import (
    ConfigError,
    FirstlightError,
    LabelStudioError,
    NotFound,
    StorageError,
)
from backend.label_studio.publisher import Publisher
from backend.rounds import sync
from backend.rounds.erasing import Eraser, follow
from backend.rounds.services import Services, build
from backend.rounds.workflow import CHUNK_QUEUE, REFRESH_QUEUE, STORY, Rounds
from backend.settings import Settings
from backend.storage.ledger import stored_options
from backend.storage.store import (
    DOUBTED,
    LONGEST_BACKOFF_SECONDS,
    MOST_FAILURES,
    SCHEMA_VERSION,
    SETTLE_SECONDS,
    WORKER_BUSY_MS,
    Project,
    Store,
    bounds,
    explained,
    is_damage,
    is_retried,
    open_store,
    sqlite_path,
    worker_lock,
)
from backend.storage.workers import BEAT_SECONDS, Membership
from backend.worker.job_serializer import JsonSerializer, refuse_pickle

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
LOOK_FOR_NEW_SECONDS = 1.0
JUMP_SECONDS = 60.0
MOST_DEATHS = 2  # of workers with the same round; then it waits for the other projects
FORGET_SIGHTING_SECONDS = 10.0  # in which Label Studio saves the entry that it called /setup for
RELEASE = f"{SCHEMA_VERSION}.{STORY}"  # by which rounds under way can be gone on with
FINISHED_DAYS = 7
NICE = 10
OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
UNDER_WAY = ["PENDING", "ENQUEUED"]


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; never returns.

    Raises:
        FirstlightError: When the database cannot be opened, or another worker has it.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        alone = _only_one(settings, stack)
        os.nice(NICE)
        store = open_store(settings.database, busy_ms=WORKER_BUSY_MS)
        store.create()
        services = build(settings, store)
        member = Membership(store, RELEASE)
        member.join(alone=alone)
        rounds = launch(services, member)
        threading.Thread(target=_beat, args=(member, stop), daemon=True).start()
        threading.Thread(target=_look_after, args=(store, member, stop), daemon=True).start()
        threading.Thread(target=_reconcile, args=(services, member, stop), daemon=True).start()
        threading.Thread(target=_find_new, args=(services, member, stop), daemon=True).start()
        eraser = Eraser(store, services.artifacts, settings.data_dir)
        threading.Thread(target=follow, args=(eraser, member.leads, stop), daemon=True).start()
        # Settings may have changed, and while no worker was there events gone past.
        _want_all(store, full=member.leads())
        log.info("worker started")
        say = logs.Once(log)
        while not stop.wait(LOOK_SECONDS):
            say(enqueue_due(rounds))
    log.info("worker stops")
    _hand_back(store, member)
    logging.shutdown()
    # A training cannot be asked to end in time, and need not be.
    os._exit(0)


def launch(services: Services, member: Membership) -> Rounds:
    """Start the durable queues; what workers that are gone left under way goes on.

    Args:
        services: What the rounds work with.
        member: This worker, one of the living by now: what it takes up is not to be handed on.
    """
    refuse_pickle()
    jobs = services.settings.jobs_database
    _set_aside_if_damaged(sqlite_path(jobs))
    DBOS(
        config={
            "name": "firstlight",
            "system_database_url": jobs,
            "db_engine_kwargs": {"connect_args": bounds(jobs)} if bounds(jobs) else None,
            "application_version": RELEASE,
            "executor_id": member.name,
            "log_level": "WARNING",
            "serializer": JsonSerializer(),
        }
    )
    rounds = Rounds(services, member.name)
    DBOS.launch()
    DBOS.register_queue(REFRESH_QUEUE, worker_concurrency=1, polling_interval_sec=0.2)
    DBOS.register_queue(CHUNK_QUEUE, worker_concurrency=1, polling_interval_sec=0.2)
    drop_other_releases(services, member)
    hand_on(services.store, member)
    return rounds


def hand_on(store: Store, member: Membership) -> None:
    """Put what workers that are gone left under way back into its queues.

    A workflow belongs to the worker that took it up, and DBOS by itself waits for that one. Back in
    its queue it keeps what it has done and whose turn it blocks. The work is looked up before the
    workers: whoever took some up in between lives.
    """
    left: list[Any] = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
    mine = [found for found in left if found.app_version == RELEASE]
    gone = {str(found.executor_id) for found in mine} - set(member.living())
    if gone:
        read = store.count_deaths(gone)
        for project_id, task_ids in read.items():
            _blame(store, project_id, task_ids)
            _put_behind_others(store, project_id, gone)
        for project_id in _refreshed_by(mine, gone) - read.keys():
            if store.count_death_in_round(project_id) >= MOST_DEATHS:
                _back_off(store, project_id, gone)
        # The public way back, `resume_workflow`, would let a second refresh of the project begin.
        DBOS._recover_pending_workflows(sorted(gone))
        log.warning("took over what %d workers left that are gone", len(gone))


def _blame(store: Store, project_id: int, task_ids: list[int]) -> None:
    """Say on the project's page and in the log that a worker died while it read these scans."""
    few = ", ".join(map(str, task_ids[:5])) + (", ..." if len(task_ids) > 5 else "")
    scans = "the scan of task" if len(task_ids) == 1 else f"{len(task_ids)} scans, of tasks"
    _tell_of_deaths(
        store,
        project_id,
        f"A worker died while it read or embedded {scans} {few}.",
        "They are read again, one by one after two deaths, to find the scan that does it.",
    )


def _tell_of_deaths(store: Store, project_id: int, what: str, mend: str) -> None:
    """End the project's round, and show on its page and in the log why it ended."""
    with logs.context(project=project_id):
        log.error("%s", what)
    now = store.clock()
    store.abort_rounds(project_id, what)
    store.update(
        project_id,
        problem=what,
        mend=mend,
        problem_at=now,
        failures=min(store.known(project_id).failures + 1, MOST_FAILURES),
        started_at=now,  # by which the longest waiting project is found
        step="",
        progress={},
    )


def _refreshed_by(under_way: list[Any], workers: Collection[str]) -> set[int]:
    """Return the projects whose refresh these workers have under way."""
    return {
        int(found.deduplication_id)
        for found in under_way
        if found.queue_name == REFRESH_QUEUE
        and found.executor_id in workers
        and found.deduplication_id
    }


def _back_off(store: Store, project_id: int, gone: set[str]) -> None:
    """Say that a project's round ends its workers, and let it wait, longer each time."""
    step = store.known(project_id).step
    _tell_of_deaths(
        store,
        project_id,
        f"{MOST_DEATHS} workers in a row died in a round of this project"
        + (f" (step: {step})." if step else "."),
        "Give the worker more memory, or choose a smaller `image_size`; it is tried again.",
    )
    _put_behind_others(store, project_id, gone)
    wait = min(LONGEST_BACKOFF_SECONDS, 15 * 2.0 ** store.known(project_id).failures)
    store.update(project_id, not_before=store.clock() + wait)


def _put_behind_others(store: Store, project_id: int, gone: set[str]) -> None:
    """Take the refresh that workers who are gone had begun out of the queue, and want it anew."""
    held: list[Any] = DBOS.list_workflows(
        status="PENDING", queue_name=REFRESH_QUEUE, load_input=False, load_output=False
    )
    begun = [
        found.workflow_id
        for found in held
        if found.deduplication_id == str(project_id) and found.executor_id in gone
    ]
    if begun:
        DBOS.cancel_workflows(begun, cancel_children=True)
        store.want(project_id)


def _beat(member: Membership, stop: threading.Event) -> None:
    """Show that this worker lives; by nothing else is this thread held up."""
    say = logs.Once(log)
    while not stop.wait(BEAT_SECONDS):
        try:
            if not member.beat():
                # Others go on with what was under way here; doing it too would publish it twice.
                log.error("this worker was silent for too long and taken for gone; it ends")
                logging.shutdown()
                os._exit(1)
            say("")
        except FirstlightError as error:
            say(f"no sign of life could be left: {error}")
        except Exception:
            # Nothing else would notice that this thread is gone, and with it this worker's beats.
            log.exception("a beat failed unexpectedly")


def _look_after(store: Store, member: Membership, stop: threading.Event) -> None:
    """Take care of what workers that are gone left under way."""
    say = logs.Once(log)
    while not stop.wait(BEAT_SECONDS):
        try:
            hand_on(store, member)
            say("")
        except (FirstlightError, SQLAlchemyError) as error:
            say(f"nobody could be looked after ({type(error).__name__})")
        except Exception:
            log.exception("looking after the other workers failed unexpectedly")


def _hand_back(store: Store, member: Membership) -> None:
    """Leave what is under way to the other workers, or to the next start."""
    try:
        left = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        for project_id in _refreshed_by(left, [member.name]):
            store.count_death_in_round(project_id, -1)  # this end is none: the next one may be
        member.leave()
        store.stop_reading(member.name)
    except (FirstlightError, SQLAlchemyError) as error:
        log.warning("the others will notice by the silence: %s", error)


def _want_all(store: Store, *, full: bool) -> None:
    for project in store.projects():
        # The timer asks for those that vanished.
        if not project.disconnected and not project.vanished_at:
            store.want(project.id, full=full)


def enqueue_due(rounds: Rounds) -> str:
    """Start a refresh wherever one is wanted; a project has at most one. Return what failed.

    Raises:
        StorageError: When the jobs' database is damaged: the next start makes another one.
    """
    try:
        due = rounds.store.due()
    except StorageError as error:
        return str(error)
    for project_id in due:
        with SetEnqueueOptions(deduplication_id=str(project_id)):
            try:
                DBOS.enqueue_workflow(REFRESH_QUEUE, rounds.refresh, project_id)
            except dbos_error.DBOSQueueDeduplicatedError:
                continue  # it is running; what is wanted meanwhile makes it start once more
            except SQLAlchemyError as error:
                if is_damage(error):
                    raise explained(error) from error
                return f"a refresh could not be queued ({type(error).__name__})"
    return ""


def reconcile(services: Services, project: Project) -> None:
    """Compare Label Studio's counters with what the last sync saw; ask for a refresh on any change.

    Heals lost webhooks and sees what has none: tasks from a storage sync, changed options. Takes a
    project that had vanished up again once Label Studio has it.
    """
    store = services.store
    try:
        seen = sync.look(services.studio, store, project)
    except FirstlightError as error:
        _note(services, project, error)
        return
    if project.vanished_at:
        log.info("Label Studio has the project again")
        store.want(project.id, full=True)
        return
    if project.problem and not project.failures:
        store.update_unless_moved(project, problem="", mend="")
    if project.wanted != project.done:
        return  # a refresh is on its way, which looks for itself
    overdue = sync.full_overdue(store, project)
    if overdue or seen != project.seen or _retry_due(services, project):
        store.want(project.id)
        return
    Publisher(services.settings, store, services.studio, project.id).clean()


class ClockWatch:
    """Notices that the clock of this machine was set, by a clock that nobody can set."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._steady = clock, steady
        self._offset = clock() - steady()

    def jumped(self) -> bool:
        """Return whether the clock was set by a minute or more since the last question."""
        before, self._offset = self._offset, self._clock() - self._steady()
        return abs(self._offset - before) >= JUMP_SECONDS


def _reconcile(services: Services, member: Membership, stop: threading.Event) -> None:
    say, clock = logs.Once(log), ClockWatch()
    while not stop.wait(services.settings.reconcile_seconds):
        try:
            if not member.leads():
                continue
            if clock.jumped():
                log.warning("the clock of this machine was set: every project is listed anew")
                _want_all(services.store, full=True)
            for project in services.store.projects():
                _reconcile_one(services, project.id)
            drop_other_releases(services, member)
            _forget_finished()
            say("")
        except FirstlightError as error:
            say(f"the timer was cut short: {error}")
        except Exception:
            # Nothing else would notice that this thread is gone, and with it every lost webhook.
            log.exception("the timer failed unexpectedly")


def _find_new(services: Services, member: Membership, stop: threading.Event) -> None:
    """Take up the projects that /setup named, where Label Studio shows an entry of ours."""
    say = logs.Once(log)
    while not stop.wait(LOOK_FOR_NEW_SECONDS):
        try:
            if services.store.sightings() and member.leads():
                take_up(services)
            say("")
        except FirstlightError as error:
            say(f"new projects could not be looked for: {error}")
        except Exception:
            log.exception("looking for new projects failed unexpectedly")


def take_up(services: Services) -> None:
    """Ask Label Studio about each project that /setup named; take up those with an entry of ours.

    Anybody can call /setup. A project that Label Studio knows nothing of leaves no trace.

    Raises:
        FirstlightError: While Label Studio cannot be asked; the projects are asked for again.
    """
    store, studio = services.store, services.studio
    studio.check_token()
    for seen in store.sightings():
        age = store.clock() - seen.at
        if 0 <= age < SETTLE_SECONDS:
            continue  # Label Studio saves its entry after the call
        answer = store.answer(store.project(seen.project_id))
        try:
            entries = studio.entries(seen.project_id)
            found = [entry.get("model_version") == answer for entry in entries]
        except LabelStudioError:  # nobody's project, or one that the token may not see
            found = []
        if any(found):  # where there are several, its first refresh says so
            store.want(seen.project_id, full=True, connected=True)
        elif 0 <= age < FORGET_SIGHTING_SECONDS:
            continue
        store.drop_sighting(seen.project_id)


def _reconcile_one(services: Services, project_id: int) -> None:
    """One project that fails must not cost the others their turn."""
    with logs.context(project=project_id):
        try:
            # Read anew: the looks at the projects before it took their time.
            project = services.store.project(project_id)
            if project and not project.disconnected and _to_look_at(project):
                reconcile(services, project)
        except FirstlightError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("the timer's look at a project failed unexpectedly")


def _to_look_at(project: Project) -> bool:
    """Return whether the timer looks at a project, and not the next refresh.

    It does when no refresh waits, when the project has vanished (no refresh starts then), and when
    the timer itself reported the problem that is shown. A refresh takes back its own problems.
    """
    reported = bool(project.problem and not project.failures)
    return project.wanted == project.done or bool(project.vanished_at) or reported


def _note(services: Services, project: Project, error: FirstlightError) -> None:
    """Show a problem that the timer met, and say it in the log once.

    Not where the project has moved on: our entry is known by the live version, and a look while
    that changes finds no entry of ours.
    """
    store = services.store
    if isinstance(error, NotFound) and services.studio.has_vanished(project.id):
        if store.vanish(project) and not project.vanished_at:
            log.warning("Label Studio has no project %d any more", project.id)
        return
    if isinstance(error, NotFound) and project.vanished_at == DOUBTED:
        # It is there without an entry of ours: it was disconnected by hand, before this release.
        store.update_unless_moved(project, disconnected=True, vanished_at=0.0, problem="", mend="")
        return
    if isinstance(error, NotFound) and project.vanished_at:
        store.want(project.id, full=True)  # it is back, and our entry is not: the refresh says so
        return
    blame = {"problem": error.what, "mend": error.mend, "problem_at": store.clock()}
    if project.problem != error.what and store.update_unless_moved(project, **blame):
        log.warning("%s", error)


def _retry_due(services: Services, project: Project) -> bool:
    if stored_options(project).paused:
        return False
    now = services.store.clock()
    return any(is_retried(task, now) for task in services.store.unreadable_tasks(project.id))


def _only_one(settings: Settings, stack: ExitStack) -> bool:
    """On SQLite one worker is all there may be; hold a lock for as long as the process lives.

    Return whether that is so.
    """
    database = sqlite_path(settings.database)
    if database is None:
        return False
    lock = worker_lock(database)
    try:
        # Not at once: `doctor` looks by taking it for an instant.
        stack.enter_context(FileLock(lock, timeout=1))
    except Timeout:
        raise ConfigError(
            f"Another worker already uses the SQLite database in {lock.parent}.",
            "Stop that worker first, or give this one a database of its own (DATA_DIR or "
            "DATABASE_URL). Several workers need PostgreSQL.",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{lock} cannot be opened ({error.strerror}).",
            "Run the worker as the user that owns the database's folder.",
        ) from None
    return True


def _set_aside_if_damaged(path: Path | None) -> None:
    """Make room for another database of jobs: every project is looked at anew after a start."""
    if path is None or not path.exists() or _is_whole(path):
        return
    log.error("%s is damaged: it is set aside, and what it held is done anew", path.name)
    for part in path.parent.glob(f"{path.name}*"):
        part.replace(part.with_name(f"damaged-{part.name}"))


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as connection:
            return bool(connection.execute("PRAGMA quick_check").fetchone() == ("ok",))
    except sqlite3.OperationalError:
        return True  # locked or not to be opened, which is told where it is used
    except sqlite3.DatabaseError:
        return False


def drop_other_releases(services: Services, member: Membership) -> None:
    """Cancel what another release began and no worker of it can end, and want it anew.

    It would hold its project's only place in the queue for ever.
    """
    left: list[Any] = DBOS.list_workflows(status=UNDER_WAY, load_input=False, load_output=False)
    works = member.releases() | {RELEASE}
    foreign = [found.workflow_id for found in left if found.app_version not in works]
    if foreign:
        DBOS.cancel_workflows(foreign)
        _want_all(services.store, full=True)


def _forget_finished() -> None:
    before = (datetime.now(UTC) - timedelta(days=FINISHED_DAYS)).isoformat()
    old = DBOS.list_workflows(
        status=OVER, end_time=before, limit=500, load_input=False, load_output=False
    )
    if old:
        DBOS.delete_workflows([found.workflow_id for found in old])
