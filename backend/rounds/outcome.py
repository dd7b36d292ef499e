"""How a refresh ends: finished, failed (tried again later), or with a vanished project."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from backend import logs
from backend.errors import FirstlightError, LabelStudioError, NotFound
from backend.rounds.services import Services
from backend.storage.projects import LONGEST_BACKOFF_SECONDS, MOST_FAILURES, spacing
from backend.storage.store import Store
from backend.storage.tables import Project

log = logging.getLogger(__name__)


def kind_of(error: FirstlightError) -> str:
    """Return the kind of a round's error.

    Returns:
        "missing" if Label Studio answered 404, "outage" if Label Studio failed in another way, ""
        for every other error.
    """
    if isinstance(error, NotFound):
        return "missing"
    return "outage" if isinstance(error, LabelStudioError) else ""


def finish(store: Store, project: Project, requested: int, made: bool) -> None:
    """Note the completed revision, and when the next round may start."""
    pause = spacing(project) if made else 0.0
    store.projects.update(
        project.id,
        completed=requested,
        waits_since=project.started_at,  # a request that is still open came after the start
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
    """Report the error once, and schedule the next try after a growing pause.

    Args:
        services: Of this worker.
        project: The project.
        what: What happened.
        fix: How to put it right.
        kind: The result of `kind_of`.
    """
    store = services.store
    if project.disconnected:  # a person disconnected it meanwhile: there is nothing to report
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


def log_new(warnings: Sequence[str], shown: Sequence[str]) -> None:
    """Log the warnings of a round that the page does not show yet."""
    for line in warnings:
        if line not in shown:
            log.warning("%s", line)


def _vanish(store: Store, project: Project) -> None:
    """Note that Label Studio has no such project; the timer goes on asking for it."""
    log.warning("Label Studio has no project %d any more", project.id)
    store.rounds.abort(project.id, "The project vanished from Label Studio.")
    store.projects.update(project.id, step="", progress={}, failures=0)
    store.projects.vanish(store.projects.known(project.id))


def _longest_backoff(kind: str, reconcile_seconds: float) -> float:
    """Return the longest pause before a failed refresh is tried again, in seconds.

    During an outage a refresh costs Label Studio one or two calls. So try at every tick of the
    timer: rounds then go on as soon as Label Studio answers again.
    """
    return min(LONGEST_BACKOFF_SECONDS, reconcile_seconds) if kind else LONGEST_BACKOFF_SECONDS
