"""The worker: its process, and the loop that starts the refreshes that are due.

It is crash-only: SIGTERM ends it as SIGKILL would, because every step of a round may be repeated.
The next start or another worker continues its rounds: at once if this worker reported its end,
else after it has been silent for SILENT_SECONDS.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from dbos import DBOS, SetEnqueueOptions
from dbos import error as dbos_error
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from backend import logs
from backend.errors import ConfigError, FirstlightError, StorageError
from backend.rounds import spreading
from backend.rounds.erasing import Eraser, follow
from backend.rounds.idle import refinement
from backend.rounds.services import Services, build
from backend.rounds.workflow import REFRESH_QUEUE, Rounds
from backend.settings import Settings
from backend.storage.database import (
    WORKER_BUSY_MS,
    bounds,
    explained,
    is_damage,
    sqlite_path,
    worker_lock,
)
from backend.storage.store import open_store
from backend.worker import jobs_database, notices, reconciliation, recovery
from backend.worker.job_serializer import JsonSerializer, refuse_pickle
from backend.worker.membership import Membership
from backend.worker.recovery import RELEASE

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # between two searches for refreshes that are due
IDLE_WORK_EVERY = 10  # polls; a search for work of idle time reads more of the database
# New objects between two searches for unreachable cycles. A round makes millions of rows that are
# in no cycle, and at Python's 700 the searches take half of the time in which it reads the ledger.
NEW_OBJECTS = 50_000
NICE = 19  # webhooks come first, then live drafts: people wait for both


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; never returns.

    Raises:
        FirstlightError: When the database cannot be opened, or another worker has it.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        alone = lock_database(settings, stack)
        os.nice(NICE)
        gc.set_threshold(NEW_OBJECTS)
        store = open_store(settings.database, busy_ms=WORKER_BUSY_MS)
        store.create()
        services = build(settings, store)
        member = Membership(store.workers, RELEASE)
        member.join(alone=alone)
        rounds = launch(services, member)
        _start_threads(services, member, stop)
        # Settings may have changed and events may have been lost while no worker ran.
        recovery.request_all_refreshes(store, full=member.leads())
        log.info("worker started")
        say = logs.Once(log)
        for poll in itertools.count():
            if stop.wait(POLL_SECONDS):
                break
            problem = enqueue_due(rounds)
            if not problem and poll % IDLE_WORK_EVERY == 0:
                problem = enqueue_refinements(rounds) or enqueue_study(rounds)
            say(problem)
    log.info("worker stops")
    recovery.hand_back(store, member)
    logging.shutdown()
    # Exit at once: a training cannot be stopped in time, and its step may be repeated.
    os._exit(0)


def _start_threads(services: Services, member: Membership, stop: threading.Event) -> None:
    """Start everything that goes on beside the rounds."""
    settings, store = services.settings, services.store
    _start(recovery.send_beats, member, stop)
    _start(recovery.watch_workers, store, member, stop)
    _start(reconciliation.run_timer, services, member, stop)
    _start(reconciliation.watch_new_projects, services, member, stop)
    _start(follow, Eraser(store, services.artifacts, settings.data_dir), member.leads, stop)
    if settings.notify_url.get_secret_value():
        _start(notices.run, settings, store, member.leads, stop)


def _start(work: Callable[..., None], *given: object) -> None:
    """Do work on a thread that ends with the process."""
    threading.Thread(target=work, args=given, daemon=True).start()


def launch(services: Services, member: Membership) -> Rounds:
    """Start the durable queues, and take over the rounds of dead workers.

    Args:
        services: The services that rounds use.
        member: This worker. It must have joined, or its rounds would count as a dead worker's.
    """
    refuse_pickle()
    jobs = services.settings.jobs_database
    jobs_database.set_aside_if_damaged(jobs)
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
    for queue in (REFRESH_QUEUE, spreading.CHUNK_QUEUE):
        DBOS.register_queue(
            queue, worker_concurrency=1, polling_interval_sec=spreading.POLL_SECONDS
        )
    recovery.cancel_other_releases(services, member)
    recovery.recover(services.store, member)
    return rounds


def enqueue_due(rounds: Rounds) -> str:
    """Queue a refresh of every project that is due, at most one each. Return why that failed.

    Raises:
        StorageError: When the jobs' database is damaged; the next start replaces it.
    """
    try:
        due = rounds.store.projects.due()
    except StorageError as error:
        return str(error)
    return _enqueue(rounds.refresh, due)


def enqueue_refinements(rounds: Rounds) -> str:
    """Queue a refinement of every project whose model may be refined. Return why that failed.

    A refinement takes the place of a refresh in the queue, so the two never run at the same time
    for one project.

    Raises:
        StorageError: When the jobs' database is damaged; the next start replaces it.
    """
    try:
        due = refinement.due(rounds.store)
    except StorageError as error:
        return str(error)
    return _enqueue(rounds.refine, due[:1])  # one at a time: the next one may have to make way


def enqueue_study(rounds: Rounds) -> str:
    """Queue a study of a project that needs no refinement, as a refinement is. Return why not.

    Raises:
        StorageError: When the jobs' database is damaged; the next start replaces it.
    """
    try:
        due = rounds.studies.due()
    except FirstlightError as error:
        return str(error)
    for project_id, name in due[:1]:
        return _enqueue(rounds.studies.study, [project_id], name)
    return ""


def _enqueue(work: Callable[..., None], project_ids: Sequence[int], *given: str) -> str:
    for project_id in project_ids:
        with SetEnqueueOptions(deduplication_id=str(project_id)):
            try:
                DBOS.enqueue_workflow(REFRESH_QUEUE, work, project_id, *given)
            except dbos_error.DBOSQueueDeduplicatedError:
                continue  # it waits or runs; a later request starts another refresh after it
            except SQLAlchemyError as error:
                if is_damage(error):
                    raise explained(error) from error
                return f"a refresh could not be queued ({type(error).__name__})"
    return ""


def lock_database(settings: Settings, stack: ExitStack) -> bool:
    """Let no second worker use a SQLite database while the process lives.

    Return whether this worker is alone; on PostgreSQL there may be several.
    """
    database = sqlite_path(settings.database)
    if database is None:
        return False
    lock = worker_lock(database)
    try:
        # Wait a second: `doctor` takes the lock for an instant, to see whether a worker runs.
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
