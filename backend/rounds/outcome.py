"""How a refresh ends: done, failed and tried again later, or with a project that vanished."""

from __future__ import annotations

import logging

from backend import logs
from backend.errors import FirstlightError, LabelStudioError, NotFound
from backend.rounds.services import Services
from backend.storage.projects import LONGEST_BACKOFF_SECONDS, MOST_FAILURES, spacing
from backend.storage.store import Store
from backend.storage.tables import Project

log = logging.getLogger(__name__)


def kind_of(error: FirstlightError) -> str:
    """Return how a round failed.

    Returns:
        "missing" if Label Studio did not find something, "outage" if it failed in another way, ""
        for everything else.
    """
    if isinstance(error, NotFound):
        return "missing"
    return "outage" if isinstance(error, LabelStudioError) else ""


def finish(store: Store, project: Project, requested: int, made: bool) -> None:
    """Note what was done, and when the next round may start."""
    pause = spacing(project) if made else 0.0
    store.projects.update(
        project.id,
        completed=requested,
        waits_since=project.started_at,  # what is still requested came after that
        step="",
        progress={},
        problem="",
        fix="",
        failures=0,
        not_before=project.started_at + pause,
        storage_away_since=0.0,
        deaths=0,
    )


def fail(services: Services, project: Project, what: str, fix: str, kind: str) -> None:
    """Say what went wrong, once, and try again later, later each time.

    Args:
        services: Of this worker.
        project: The project.
        what: What happened.
        fix: How to put it right.
        kind: As `kind_of` returns it.
    """
    store = services.store
    if project.disconnected:  # meanwhile, which is no problem of anybody's
        store.rounds.abort(project.id, "The project was disconnected.")
        store.projects.update(project.id, step="", progress={}, problem="", fix="")
        return
    if kind == "missing" and services.studio.has_vanished(project.id):
        _vanish(store, project)
        return
    if project.problem != what:
        number = store.rounds.open(project.id)
        with logs.context(**({"round": number} if number else {})):
            log.warning("%s %s", what, fix)
        store.projects.update(project.id, problem_at=store.clock())
    store.rounds.abort(project.id, what)
    longest = _longest_backoff(kind, services.settings.reconcile_seconds)
    store.projects.update(
        project.id,
        step="",
        progress={},
        problem=what,
        fix=fix,
        deaths=0,
        failures=min(project.failures + 1, MOST_FAILURES),
        not_before=store.clock() + min(longest, 2.0**project.failures),
    )


def _vanish(store: Store, project: Project) -> None:
    """Note that Label Studio has no such project; the timer goes on asking for it."""
    log.warning("Label Studio has no project %d any more", project.id)
    store.rounds.abort(project.id, "The project vanished from Label Studio.")
    store.projects.update(project.id, step="", progress={}, failures=0)
    store.projects.vanish(store.projects.known(project.id))


def _longest_backoff(kind: str, reconcile_seconds: float) -> float:
    """Return the seconds after which a failed refresh is tried again at the latest.

    A refresh that Label Studio fails costs a call or two: it may be tried at every tick of the
    timer, so that an outage ends here when it ends there.
    """
    return min(LONGEST_BACKOFF_SECONDS, reconcile_seconds) if kind else LONGEST_BACKOFF_SECONDS
