"""Take over the work of dead workers, and keep what killed them from killing the next ones.

A worker that is told to end hands its work back, so that the others need not wait for its silence.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection
from typing import Any

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from backend import logs
from backend.errors import FirstlightError
from backend.rounds.services import Services
from backend.rounds.workflow import REFRESH_QUEUE, STORY
from backend.storage.projects import LONGEST_BACKOFF_SECONDS, MOST_FAILURES
from backend.storage.schema import SCHEMA_VERSION
from backend.storage.store import Store
from backend.worker.membership import BEAT_SECONDS, Membership

log = logging.getLogger(__name__)

MOST_DEATHS = 2  # of workers with the same round; then it waits for the other projects
# Only a worker of the same release can go on with a round that is under way.
RELEASE = f"{SCHEMA_VERSION}.{STORY}"
UNDER_WAY = ["PENDING", "ENQUEUED"]


def recover(store: Store, member: Membership) -> None:
    """Put the workflows of dead workers back into their queues.

    A workflow belongs to the worker that took it up, and DBOS by itself waits for that worker. Back
    in its queue it keeps the steps it has done and its project's only place there. Workflows are
    listed before the living workers: whoever took one up in between is then among the living.
    """
    left: list[Any] = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
    mine = [found for found in left if found.app_version == RELEASE]
    gone = {str(found.executor_id) for found in mine} - set(member.living())
    if gone:
        read = store.scans.count_deaths(gone)
        for project_id, task_ids in read.items():
            _report_killing_scans(store, project_id, task_ids)
            _requeue(store, project_id, gone)
        for project_id in _refreshed_by(mine, gone) - read.keys():
            if store.projects.count_deaths(project_id) >= MOST_DEATHS:
                _back_off(store, project_id, gone)
        # The public way back, `resume_workflow`, would let a second refresh of the project begin.
        DBOS._recover_pending_workflows(sorted(gone))
        log.warning("took over what %d workers left that are gone", len(gone))


def _report_killing_scans(store: Store, project_id: int, task_ids: list[int]) -> None:
    """Say on the project's page and in the log that a worker died while it read these scans."""
    few = ", ".join(map(str, task_ids[:5])) + (", ..." if len(task_ids) > 5 else "")
    scans = "the scan of task" if len(task_ids) == 1 else f"{len(task_ids)} scans, of tasks"
    _end_round(
        store,
        project_id,
        f"A worker died while it read or embedded {scans} {few}.",
        "They are read again, one by one after two deaths, to find the scan that does it.",
    )


def _end_round(store: Store, project_id: int, what: str, fix: str) -> None:
    """End the project's round, and show on its page and in the log why it ended."""
    with logs.context(project=project_id):
        log.error("%s", what)
    now = store.clock()
    store.rounds.abort(project_id, what)
    store.projects.update(
        project_id,
        problem=what,
        fix=fix,
        problem_at=now,
        failures=min(store.projects.known(project_id).failures + 1, MOST_FAILURES),
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
    """Report that a project's round kills its workers, and let it wait, longer each time."""
    step = store.projects.known(project_id).step
    _end_round(
        store,
        project_id,
        f"{MOST_DEATHS} workers in a row died in a round of this project"
        + (f" (step: {step})." if step else "."),
        "Give the worker more memory, or choose a smaller `image_size`; it is tried again.",
    )
    _requeue(store, project_id, gone)
    wait = min(LONGEST_BACKOFF_SECONDS, 15 * 2.0 ** store.projects.known(project_id).failures)
    store.projects.update(project_id, not_before=store.clock() + wait)


def _requeue(store: Store, project_id: int, gone: set[str]) -> None:
    """Cancel the refresh that dead workers had begun, and ask for a new one, behind the others."""
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
        store.projects.request_refresh(project_id)


def send_beats(member: Membership, stop: threading.Event) -> None:
    """Show that this worker lives. This thread does nothing else that could hold it up."""
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


def watch_workers(store: Store, member: Membership, stop: threading.Event) -> None:
    """Look for dead workers, and take over what they left."""
    say = logs.Once(log)
    while not stop.wait(BEAT_SECONDS):
        try:
            recover(store, member)
            say("")
        except (FirstlightError, SQLAlchemyError) as error:
            say(f"nobody could be looked after ({type(error).__name__})")
        except Exception:
            log.exception("looking after the other workers failed unexpectedly")


def hand_back(store: Store, member: Membership) -> None:
    """Leave what is under way to the other workers, or to the next start."""
    try:
        left = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        for project_id in _refreshed_by(left, [member.name]):
            store.projects.count_deaths(project_id, -1)  # this end is none: the next one may be
        member.leave()
        store.scans.stop_reading(member.name)
    except (FirstlightError, SQLAlchemyError) as error:
        log.warning("the others will notice by the silence: %s", error)


def cancel_other_releases(services: Services, member: Membership) -> None:
    """Cancel the workflows of releases that have no worker any more, and ask for new ones.

    Such a workflow would hold its project's only place in the queue for ever.
    """
    left: list[Any] = DBOS.list_workflows(status=UNDER_WAY, load_input=False, load_output=False)
    works = member.releases() | {RELEASE}
    foreign = [found.workflow_id for found in left if found.app_version not in works]
    if foreign:
        DBOS.cancel_workflows(foreign)
        request_all_refreshes(services.store, full=True)


def request_all_refreshes(store: Store, *, full: bool) -> None:
    """Ask for a refresh of every project; a full one lists all its tasks anew."""
    for project in store.projects.all():
        # The timer asks for those that vanished.
        if not project.disconnected and not project.vanished_at:
            store.projects.request_refresh(project.id, full=full)
