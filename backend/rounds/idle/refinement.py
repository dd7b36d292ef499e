"""Refine the live model of a project while nobody waits for a round.

A refinement is a workflow of its own (`Rounds.refine`). It stays in the queue of the refreshes and
ends within two seconds of a refresh request, so it never delays a round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from backend.rounds.context import RoundContext
from backend.rounds.idle import twins
from backend.rounds.models.examples import labelled
from backend.rounds.models.time_box import pace_of, recipe_of
from backend.storage import artifacts
from backend.storage.ledger import stored_options
from backend.storage.records import ModelQuality
from backend.storage.store import Store
from backend.storage.tables import Model, Project
from model import refinement
from model.expected_minutes import MaskSummary
from model.registry import TRAINING_RULES

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # between two questions whether a refresh waits
PROGRESS_SECONDS = 1.0
SCORED_AT_ONCE = 8
# A refined model goes on drawing while it lacks so few labels, or so small a share of its own.
FEW_LABELS, FEW_SHARE = 2, 0.2
MOST_FAILURES = 2  # after so many errors a model is not refined any more
MOST_DRAWN = 100  # drafts that a refined model may draw in a round, which has to be quick


class StopSignal:
    """Says whether a refinement must end: a refresh waits for this worker.

    Args:
        store: The database.
        project_id: The project that is refined. Its requests count even before they are due.
    """

    def __init__(self, store: Store, project_id: int) -> None:
        self._store, self._project_id = store, project_id
        self._next_poll, self._ended = 0.0, False

    def __call__(self) -> bool:
        """Return whether to end; the database is asked every POLL_SECONDS."""
        now = time.monotonic()
        if not self._ended and now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            project = self._store.projects.get(self._project_id)
            self._ended = project is None or is_requested(project) or others_wait(self._store)
        return self._ended


def is_requested(project: Project) -> bool:
    """Return whether a refresh of the project was requested and is not completed."""
    return project.requested > project.completed or project.disconnected


def others_wait(store: Store) -> bool:
    """Return whether a refresh is due, apart from those that are tried again after a failure.

    A project that fails every minute would otherwise end every refinement.
    """
    waiting = map(store.projects.get, store.projects.due())
    return any(project is not None and project.failures == 0 for project in waiting)


def due(store: Store) -> list[int]:
    """Return the projects whose newest model may be refined now; none while a refresh waits."""
    if others_wait(store):
        return []
    now = store.clock()
    rested = [project for project in store.projects.all() if is_idle(project, now)]
    return [project.id for project in rested if refinable(store, project) is not None]


def is_idle(project: Project, now: float) -> bool:
    """Return whether nothing is to be done for a project, and a round might begin."""
    troubled = project.problem or project.vanished_at or is_requested(project)
    return bool(project.live_version) and not troubled and project.not_before <= now


def refinable(store: Store, project: Project) -> Model | None:
    """Return the newest model of a project if it is to be refined, or is refined and unpublished.

    A refinement that had to make way for a round may leave such a model.
    """
    model = store.publications.newest_model(project.id)
    if model is None or not model.accepted or model.quality.steps is None:
        return None
    if model.quality.settled or model.quality.refinement_failures >= MOST_FAILURES:
        return None
    options = stored_options(project)
    allowed = options.refine and not options.paused and not store.publications.pinned(project.id)
    return model if allowed else None


def settle(store: Store, project_id: int) -> None:
    """Note that the newest model needs no further refinement."""
    model = store.publications.newest_model(project_id)
    if model is not None:
        _note(store, model, settled=True)


def count_failure(store: Store, project_id: int) -> None:
    """Note that a refinement of the newest model ended with an error."""
    model = store.publications.newest_model(project_id)
    if model is not None:
        _note(store, model, refinement_failures=model.quality.refinement_failures + 1)


def improve(here: RoundContext, stop: Callable[[], bool]) -> str:
    """Train a refined model of the project's newest model; return its key, "" for none.

    Raises:
        UnreadableLabels: If labelled scans have become unreadable.
    """
    model = refinable(here.store, here.project)
    if model is None:
        return ""
    try:
        twins.compare(here, stop)
        key = _refined_key(here, model, stop)
    except refinement.Stopped:
        log.info("the refinement makes way for a round")
        return ""
    if not key:
        settle(here.store, here.id)
    return key


def _refined_key(here: RoundContext, model: Model, stop: Callable[[], bool]) -> str:
    """Return the key of a refined model that may be published; "" if there is no use for one."""
    learner, ledger = here.learner, here.ledger
    if not learner.holds(ledger, model) or not here.selector.pool(ledger):
        return ""
    if model.quality.refined_from:
        key = model.key if learner.knows(model.key) else ""
    else:
        key = _train(here, model, stop)
    live = here.store.publications.get(here.id, here.project.live_version)
    _, held = learner.split(ledger, here.selector.clusters())
    used = learner.gate(ledger, key, live.model_key if live else "", held, stop) if key else ""
    return key if used == key else ""


def _train(here: RoundContext, base: Model, stop: Callable[[], bool]) -> str:
    """Train and store a refined model of the model of a round; return its key."""
    refined, seconds = _refined(here, base, stop)
    configs = [member.config for member in refined.model.members]
    key = artifacts.digest("refined", base.key, list(map(repr, configs)))
    quality = ModelQuality(
        train_seconds=seconds,
        steps=sum(len(member.history) for member in refined.model.members),
        learnt=base.quality.learnt,
        refined_from=base.key,
        recipes=list(refined.recipes),
        compared=dict(refined.compared),
        best_recipe=refined.best,
        rules=TRAINING_RULES,
    )
    here.learner.keep(key, refined.model, base.trained_on, quality)
    return key


def model_for_drafts(here: RoundContext, key: str, missing: Callable[[str], int]) -> str:
    """Return the key of the model that draws the drafts of a round with the model `key`.

    The live refined model goes on drawing while its labels and the options are those that it was
    trained with, the labels that it has not seen are few, and so are the drafts that it would have
    to draw.

    Args:
        here: The project.
        key: Of the model of the round.
        missing: Returns how many drafts a model would have to draw.
    """
    live = here.store.publications.get(here.id, here.project.live_version)
    refined = here.store.publications.model(here.id, live.model_key) if live else None
    if refined is None or not refined.quality.refined_from or not here.options.refine:
        return key
    unseen = len(here.ledger.usable) - len(refined.trained_on)
    few = unseen <= max(FEW_LABELS, FEW_SHARE * len(refined.trained_on))
    fits = few and _is_current(here, refined) and here.learner.knows(refined.key)
    return refined.key if fits and missing(refined.key) <= MOST_DRAWN else key


def _is_current(here: RoundContext, refined: Model) -> bool:
    """Return whether the refined model's labels and settings are those of today."""
    base = here.store.publications.model(here.id, refined.quality.refined_from)
    if base is None or not here.learner.holds(here.ledger, refined):
        return False
    then = replace(here.learner, recipe=recipe_of(base))
    return then.key(here.ledger, refined.trained_on, base.quality.started_from) == base.key


def score(
    here: RoundContext, key: str, task_ids: Sequence[int], stop: Callable[[], bool]
) -> dict[int, MaskSummary] | None:
    """Return what the model sees in each readable scan; None if it was told to stop."""
    urls = here.store.scans.addresses(here.id, task_ids)
    scores: dict[int, MaskSummary] = {}
    for start in range(0, len(task_ids), SCORED_AT_ONCE):
        if stop():
            return None
        some = [(i, urls[i]) for i in task_ids[start : start + SCORED_AT_ONCE]]
        scores |= here.learner.judge(key, some)
        progress = {"done": start + len(some), "total": len(task_ids)}
        here.store.projects.update(here.id, progress=progress)
    return scores


def _refined(
    here: RoundContext, base: Model, stop: Callable[[], bool]
) -> tuple[refinement.Refinement, float]:
    """Return the refined model, and the seconds that it took."""
    learner, ledger = here.learner, here.ledger
    examples = list(learner.examples(ledger, base.trained_on, stop))
    started, limit = time.monotonic(), here.options.max_refine_seconds
    refined = refinement.refine(
        labelled(examples, ledger.groups),
        learner.quick_config,
        limit / pace_of(base, learner.quick_config),
        tell=_Reporter(here, limit),
        stop=stop,
        late=lambda: time.monotonic() >= started + limit,
    )
    seconds = round(time.monotonic() - started, 1)
    names = ", ".join(refined.recipes)
    log.info("refined on %d scans in %.1f s: %s", len(examples), seconds, names)
    return refined, seconds


def _note(store: Store, model: Model, **values: object) -> None:
    model.quality = model.quality.changed(**values)
    store.publications.save_model(model)


class _Reporter:
    """Shows on the page how far the refinement is, once a second."""

    def __init__(self, here: RoundContext, limit: float) -> None:
        self._here, self._limit = here, limit
        self._started, self._next = time.monotonic(), 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PROGRESS_SECONDS
        minutes = (now - self._started) / 60
        progress = {"minutes": round(minutes, 1), "of_minutes": round(self._limit / 60, 1)}
        self._here.store.projects.update(self._here.id, progress={**progress, "share": share})
