"""The timer: compares every project with Label Studio, and takes up new projects.

It makes up for lost webhooks, and sees changes for which there is no webhook.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from dbos import DBOS

from backend import logs
from backend.errors import FirstlightError, LabelStudioError, NotFound
from backend.label_studio.publisher import Publisher
from backend.rounds import sync
from backend.rounds.services import Services
from backend.storage.ledger import stored_options
from backend.storage.projects import SETTLE_SECONDS
from backend.storage.scans import is_retried
from backend.storage.schema import DOUBTED
from backend.storage.tables import Project
from backend.worker.membership import Membership
from backend.worker.recovery import cancel_other_releases, request_all_refreshes

log = logging.getLogger(__name__)

LOOK_FOR_NEW_SECONDS = 1.0
JUMP_SECONDS = 60.0
FORGET_SIGHTING_SECONDS = 10.0  # after /setup; Label Studio saves its entry within that time
FINISHED_DAYS = 7
OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


class ClockWatch:
    """Notices that this machine's clock was set, by the steady clock, which nobody can set."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._steady = clock, steady
        self._offset = clock() - steady()

    def jumped(self) -> bool:
        """Return whether the clock was set by a minute or more since the last call."""
        before, self._offset = self._offset, self._clock() - self._steady()
        return abs(self._offset - before) >= JUMP_SECONDS


def run_timer(services: Services, member: Membership, stop: threading.Event) -> None:
    """Reconcile all projects every RECONCILE_SECONDS, on the worker that leads."""
    say, clock = logs.Once(log), ClockWatch()
    while not stop.wait(services.settings.reconcile_seconds):
        try:
            if not member.leads():
                continue
            if clock.jumped():
                log.warning("the clock of this machine was set: every project is listed anew")
                request_all_refreshes(services.store, full=True)
            for project in services.store.projects.all():
                _reconcile_one(services, project.id)
            cancel_other_releases(services, member)
            _delete_finished()
            say("")
        except FirstlightError as error:
            say(f"the timer stopped before the last project: {error}")
        except Exception:
            # Go on: nothing would report the end of this thread, or make up for lost webhooks.
            log.exception("the timer failed unexpectedly")


def watch_new_projects(services: Services, member: Membership, stop: threading.Event) -> None:
    """Take up the projects that /setup named and that have an entry of ours."""
    say = logs.Once(log)
    while not stop.wait(LOOK_FOR_NEW_SECONDS):
        try:
            if services.store.projects.sightings() and member.leads():
                take_up(services)
            say("")
        except FirstlightError as error:
            say(f"new projects could not be looked for: {error}")
        except Exception:
            log.exception("looking for new projects failed unexpectedly")


def take_up(services: Services) -> None:
    """Ask Label Studio about each project that /setup named; take up those with an entry of ours.

    Anybody can call /setup, so a project without an entry of ours is forgotten again.

    Raises:
        FirstlightError: When Label Studio does not answer; the next call asks again.
    """
    store, studio = services.store, services.studio
    studio.check_token()
    for seen in store.projects.sightings():
        age = store.clock() - seen.at
        if 0 <= age < SETTLE_SECONDS:
            continue  # Label Studio saves its entry after the call
        answer = store.installation.answer(store.projects.get(seen.project_id))
        try:
            entries = studio.entries(seen.project_id)
            ours = [entry.get("model_version") == answer for entry in entries]
        except LabelStudioError:  # there is no such project, or the token may not see it
            ours = []
        if any(ours):  # if there are several, the first refresh reports that
            store.projects.request_refresh(seen.project_id, full=True, connected=True)
        elif 0 <= age < FORGET_SIGHTING_SECONDS:
            continue
        store.projects.drop_sighting(seen.project_id)


def reconcile(services: Services, project: Project) -> None:
    """Compare Label Studio's counters with what the last sync saw; ask for a refresh on any change.

    This makes up for lost webhooks, and sees changes without a webhook: tasks from a storage sync,
    changed options. A vanished project is taken up again once Label Studio has it.
    """
    store = services.store
    try:
        seen = sync.look(services.studio, store, project)
    except FirstlightError as error:
        _report_problem(services, project, error)
        return
    if project.vanished_at:
        log.info("Label Studio has the project again")
        store.projects.request_refresh(project.id, full=True)
        return
    if project.problem and not project.failures:
        store.projects.update_unless_moved(project, problem="", fix="")
    if project.requested != project.completed:
        return  # a refresh is pending, which reads Label Studio itself
    overdue = sync.full_overdue(store, project)
    if overdue or seen != project.seen or _retry_due(services, project):
        store.projects.request_refresh(project.id)
        return
    Publisher(services.settings, store, services.studio, project.id).clean()


def _reconcile_one(services: Services, project_id: int) -> None:
    """Reconcile a project; if that fails, log it, so that the others still get their turn."""
    with logs.context(project=project_id):
        try:
            # Read it now: it may have changed while other projects were reconciled.
            project = services.store.projects.get(project_id)
            if project and not project.disconnected and _is_due(project):
                reconcile(services, project)
        except FirstlightError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("reconciling a project failed unexpectedly")


def _is_due(project: Project) -> bool:
    """Return whether the timer checks a project, instead of leaving it to the next refresh.

    It does if no refresh is pending, if the project has vanished (no refresh starts then), or if
    the timer reported the current problem. A refresh clears its own problems.
    """
    reported = bool(project.problem and not project.failures)
    return project.requested == project.completed or bool(project.vanished_at) or reported


def _report_problem(services: Services, project: Project, error: FirstlightError) -> None:
    """Show a problem that the timer met, and log it once.

    A problem of a project that has moved on is dropped: our entry is recognised by the live
    version, and a check while that changes finds no entry of ours.
    """
    store = services.store
    if isinstance(error, NotFound) and services.studio.has_vanished(project.id):
        if store.projects.vanish(project) and not project.vanished_at:
            log.warning("Label Studio has no project %d any more", project.id)
        return
    if isinstance(error, NotFound) and project.vanished_at == DOUBTED:
        # The project has no entry of ours: a person removed it, before this release ran.
        store.projects.update_unless_moved(
            project, disconnected=True, vanished_at=0.0, problem="", fix=""
        )
        return
    if isinstance(error, NotFound) and project.vanished_at:
        # The project is back, but our entry is not: the refresh reports that.
        store.projects.request_refresh(project.id, full=True)
        return
    blame = {"problem": error.what, "fix": error.fix, "problem_at": store.clock()}
    if project.problem != error.what and store.projects.update_unless_moved(project, **blame):
        log.warning("%s", error)


def _retry_due(services: Services, project: Project) -> bool:
    if stored_options(project).paused:
        return False
    now = services.store.clock()
    return any(is_retried(task, now) for task in services.store.scans.unreadable(project.id))


def _delete_finished() -> None:
    before = (datetime.now(UTC) - timedelta(days=FINISHED_DAYS)).isoformat()
    old = DBOS.list_workflows(
        status=OVER, end_time=before, limit=500, load_input=False, load_output=False
    )
    if old:
        DBOS.delete_workflows([workflow.workflow_id for workflow in old])
