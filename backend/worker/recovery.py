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
from backend.rounds import steps
from backend.rounds.idle import idle_studies, refinement
from backend.rounds.services import Services
from backend.rounds.workflow import REFRESH_QUEUE, STORY
from backend.storage.projects import LONGEST_BACKOFF_SECONDS, MOST_FAILURES
from backend.storage.schema import SCHEMA_VERSION
from backend.storage.store import Store
from backend.worker.membership import BEAT_SECONDS, Membership

log = logging.getLogger(__name__)

MOST_DEATHS = 2  # of workers in the same round; then the round waits behind other projects
# Only a worker of the same release can continue a round that is under way.
RELEASE = f"{SCHEMA_VERSION}.{STORY}"
UNDER_WAY = ["PENDING", "ENQUEUED"]


def recover(store: Store, member: Membership) -> None:
    """Put the workflows of dead workers back into their queues.

    DBOS ties a workflow to the worker that started it, and waits for that worker. Back in its
    queue, the workflow keeps its finished steps and its project's only place there. Workflows are
    listed before living workers, so a worker that starts one in between counts as living. Only one
    worker of a release recovers: two at the same time would count a death twice.
    """
    left: list[Any] = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
    mine = [workflow for workflow in left if workflow.app_version == RELEASE]
    gone = {str(workflow.executor_id) for workflow in mine} - set(member.living())
    if gone and member.leads_release():
        read = store.scans.count_deaths(gone)
        for project_id, task_ids in read.items():
            _report_killing_scans(store, project_id, task_ids)
            _requeue(store, project_id, gone)
        for project_id in _refreshed_by(mine, gone) - read.keys():
            if store.projects.count_deaths(project_id) >= MOST_DEATHS:
                _back_off(store, project_id, gone)
        # The public `resume_workflow` would let a second refresh of the project begin.
        DBOS._recover_pending_workflows(sorted(gone))
        log.warning("took over the rounds of %d dead workers", len(gone))


def _report_killing_scans(store: Store, project_id: int, task_ids: list[int]) -> None:
    """Report on the page and in the log that a worker died while it read these scans."""
    few = ", ".join(map(str, task_ids[:5])) + (", ..." if len(task_ids) > 5 else "")
    scans = "the scan of task" if len(task_ids) == 1 else f"{len(task_ids)} scans, of tasks"
    _end_round(
        store,
        project_id,
        f"A worker died while it read or embedded {scans} {few}.",
        "They are read again; after two deaths one by one, to find the scan that kills the worker.",
    )


def _end_round(store: Store, project_id: int, what: str, fix: str) -> None:
    """End the project's round, and report the reason on its page and in the log."""
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
        started_at=now,  # the project that waits longest goes first
        step="",
        progress={},
    )


def _refreshed_by(under_way: list[Any], workers: Collection[str]) -> set[int]:
    """Return the ids of the projects that these workers refresh."""
    return {
        int(workflow.deduplication_id)
        for workflow in under_way
        if workflow.queue_name == REFRESH_QUEUE
        and workflow.executor_id in workers
        and workflow.deduplication_id
    }


def _back_off(store: Store, project_id: int, gone: set[str]) -> None:
    """Report that a project's round kills its workers, and delay it, longer each time."""
    step = store.projects.known(project_id).step
    if step in steps.IDLE:
        # Rounds are not to blame: they go on, without a refinement or a study of this queue.
        log.error("%d workers in a row died in the step %s; it is given up", MOST_DEATHS, step)
        if step == steps.REFINE:
            refinement.settle(store, project_id)
        else:
            idle_studies.give_up(store, project_id, step)
        store.projects.update(project_id, step="", progress={}, deaths=0)
        _requeue(store, project_id, gone)
        return
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
        workflow.workflow_id
        for workflow in held
        if workflow.deduplication_id == str(project_id) and workflow.executor_id in gone
    ]
    if begun:
        DBOS.cancel_workflows(begun, cancel_children=True)
        store.projects.request_refresh(project_id)


def send_beats(member: Membership, stop: threading.Event) -> None:
    """Show that this worker is alive. The thread does nothing else that could delay a beat."""
    say = logs.Once(log)
    while not stop.wait(BEAT_SECONDS):
        try:
            if not member.beat():
                # Others continue its rounds; to continue here too would publish them twice.
                log.error("the others took this silent worker for dead; it ends")
                logging.shutdown()
                os._exit(1)
            say("")
        except FirstlightError as error:
            say(f"a beat could not be stored: {error}")
        except Exception:
            # Go on: nothing would report the end of this thread, and of this worker's beats.
            log.exception("a beat failed unexpectedly")


def watch_workers(store: Store, member: Membership, stop: threading.Event) -> None:
    """Look for dead workers, and take over their rounds."""
    say = logs.Once(log)
    while not stop.wait(BEAT_SECONDS):
        try:
            recover(store, member)
            say("")
        except (FirstlightError, SQLAlchemyError) as error:
            say(f"dead workers could not be looked for ({type(error).__name__})")
        except Exception:
            log.exception("looking for dead workers failed unexpectedly")


def hand_back(store: Store, member: Membership) -> None:
    """Hand this worker's rounds to the other workers, or to the next start."""
    try:
        left = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        for project_id in _refreshed_by(left, [member.name]):
            store.projects.count_deaths(project_id, -1)  # recovery will count this end
        member.leave()
        store.scans.stop_reading(member.name)
    except (FirstlightError, SQLAlchemyError) as error:
        log.warning("this worker's rounds were not handed back: %s", error)


def cancel_other_releases(services: Services, member: Membership) -> None:
    """Cancel the workflows of releases that have no worker any more, and ask for new ones.

    Such a workflow would hold its project's only place in the queue for ever.
    """
    left: list[Any] = DBOS.list_workflows(status=UNDER_WAY, load_input=False, load_output=False)
    works = member.releases() | {RELEASE}
    foreign = [workflow.workflow_id for workflow in left if workflow.app_version not in works]
    if foreign:
        DBOS.cancel_workflows(foreign)
        request_all_refreshes(services.store, full=True)


def request_all_refreshes(store: Store, *, full: bool) -> None:
    """Request a refresh of every project; a full refresh lists all its tasks anew."""
    for project in store.projects.all():
        # For vanished projects the timer requests it.
        if not project.disconnected and not project.vanished_at:
            store.projects.request_refresh(project.id, full=full)
