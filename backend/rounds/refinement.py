"""Refine the live model while nobody waits: which projects are due, and the training itself.

A refinement is a workflow of its own (`Rounds.refine`). It stays in the queue of the refreshes and
ends within two seconds of a refresh request, so it never delays a round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from backend.rounds.context import RoundContext
from backend.storage import artifacts
from backend.storage.ledger import stored_options
from backend.storage.records import ModelQuality
from backend.storage.store import Store
from backend.storage.tables import Model, Project
from model import refinement, training
from model.evaluation import MAIN

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks for a refresh request
TELL_SECONDS = 1.0
SCORED_AT_ONCE = 8
# A refined model goes on drawing while it lacks so few labels, or so small a share of its own.
FEW_LABELS, FEW_SHARE = 2, 0.2
MOST_TRIES = 2  # a model whose refinement killed two workers is not refined again


class Watch:
    """Says whether a refinement must end: a refresh of any project waits for this worker.

    Args:
        store: The database.
        project_id: The project that is refined. Its requests count even before they are due.
    """

    def __init__(self, store: Store, project_id: int) -> None:
        self._store, self._project_id = store, project_id
        self._next_look, self._ended = 0.0, False

    def __call__(self) -> bool:
        """Return whether to end; the database is asked every LOOK_SECONDS."""
        now = time.monotonic()
        if not self._ended and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            project = self._store.projects.get(self._project_id)
            self._ended = project is None or is_wanted(project) or bool(self._store.projects.due())
        return self._ended


def is_wanted(project: Project) -> bool:
    """Return whether a refresh of the project was requested and is not completed."""
    return project.requested > project.completed or project.disconnected


def due(store: Store) -> list[int]:
    """Return the projects whose newest model may be refined now; none while a refresh waits."""
    if store.projects.due():
        return []
    rested = [project for project in store.projects.all() if _rests(project)]
    return [project.id for project in rested if refinable(store, project) is not None]


def _rests(project: Project) -> bool:
    idle = not (project.step or project.problem or project.vanished_at or is_wanted(project))
    return idle and bool(project.live_version)


def refinable(store: Store, project: Project) -> Model | None:
    """Return the newest model of a project if it is to be refined, or is refined and unpublished.

    A refinement that had to make way for a round may leave such a model.
    """
    model = store.publications.newest_model(project.id)
    if model is None or not model.accepted or not _has_work(store, model):
        return None
    options = stored_options(project)
    allowed = options.refine and not options.paused and not store.publications.pinned(project.id)
    return model if allowed else None


def _has_work(store: Store, model: Model) -> bool:
    if model.quality.refined_from:
        return not store.publications.was_live(model)
    return model.quality.refinement is None and model.quality.refinement_tries < MOST_TRIES


def improve(here: RoundContext, stop: Callable[[], bool]) -> str:
    """Train a refined model of the project's newest model; return its key, "" for none.

    Raises:
        UnreadableLabels: If labelled scans have become unreadable.
    """
    base = refinable(here.store, here.project)
    if base is None or not here.learner.holds(here.ledger, base):
        return ""
    if base.quality.refined_from:
        return base.key
    _note(here, base, refinement_tries=base.quality.refinement_tries + 1)
    try:
        refined, seconds = _refined(here, base, stop)
    except refinement.Stopped:
        _note(here, base, refinement_tries=base.quality.refinement_tries - 1)
        log.info("the refinement makes way for a round")
        return ""
    key = artifacts.digest("refined", base.key, refined.recipe, repr(refined.model.config))
    quality = ModelQuality(
        train_seconds=seconds,
        learnt=base.quality.learnt,
        refined_from=base.key,
        recipe=refined.recipe,
        compared=dict(refined.compared),
    )
    here.learner.keep(key, refined.model, base.trained_on, quality)
    _, held = here.learner.split(here.ledger, here.selector.clusters())
    used = here.learner.gate(here.ledger, key, base.key, held) == key
    _note(here, base, refinement=key if used else "", refinement_tries=0)
    return key if used else ""


def drawing(here: RoundContext, key: str) -> str:
    """Return the key of the model that draws the drafts of a round with the model `key`.

    The live refined model goes on drawing while it is better than the new model of a round: while
    all its labels hold, and validation says so; without held-out scans, while the labels that it
    has not seen are few.
    """
    live = here.store.publications.get(here.id, here.project.live_version)
    refined = here.store.publications.model(here.id, live.model_key) if live else None
    new = here.store.publications.model(here.id, key)
    if refined is None or new is None or not refined.quality.refined_from:
        return key
    if not (here.learner.knows(refined.key) and here.learner.holds(here.ledger, refined)):
        return key
    before, after = (one.quality.validation.get(MAIN.name) for one in (refined, new))
    if before is not None and after is not None:
        return refined.key if before > after else key
    unseen = len(here.ledger.usable) - len(refined.trained_on)
    few = unseen <= max(FEW_LABELS, FEW_SHARE * len(refined.trained_on))
    return refined.key if few else key


def score(
    here: RoundContext, key: str, task_ids: Sequence[int], stop: Callable[[], bool]
) -> dict[int, float] | None:
    """Return the uncertainty of each readable scan; None if it was told to stop."""
    urls = here.store.scans.addresses(here.id, task_ids)
    scores: dict[int, float] = {}
    for start in range(0, len(task_ids), SCORED_AT_ONCE):
        if stop():
            return None
        some = [(i, urls[i]) for i in task_ids[start : start + SCORED_AT_ONCE]]
        scores |= here.learner.uncertainties(key, some)
        here.store.projects.enter(here.id, "score", done=start + len(some), total=len(task_ids))
    return scores


def _refined(
    here: RoundContext, base: Model, stop: Callable[[], bool]
) -> tuple[refinement.Refined, float]:
    """Return the refined model, and the seconds that it took."""
    learner, ledger = here.learner, here.ledger
    examples = list(learner.examples(ledger, base.trained_on))
    labelled = refinement.Labelled(
        [example.image for example in examples],
        [example.mask for example in examples],
        [ledger.groups[example.task] for example in examples],
    )
    started = time.monotonic()
    limit = here.options.max_refine_seconds
    progress = _Reporter(here, limit)
    refined = refinement.refine(
        labelled,
        learner.train_config,
        limit / _pace(base, learner.train_config),
        tell=progress,
        stop=stop,
        late=lambda: time.monotonic() >= started + limit,
    )
    seconds = round(time.monotonic() - started, 1)
    log.info("refined on %d scans in %.1f s: %s", len(examples), seconds, refined.recipe)
    return refined, seconds


def _pace(base: Model, config: training.TrainConfig) -> float:
    """Return the seconds of a step, as measured in the round that trained the model."""
    return max(base.quality.train_seconds or 30.0, 0.1) / config.steps


def _note(here: RoundContext, model: Model, **values: object) -> None:
    model.quality = model.quality.changed(**values)
    here.store.publications.save_model(model)


class _Reporter:
    """Shows on the page how far the refinement is, once a second."""

    def __init__(self, here: RoundContext, limit: float) -> None:
        self._here, self._limit = here, limit
        self._started, self._next = time.monotonic(), 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TELL_SECONDS
        minutes = (now - self._started) / 60
        progress = {"minutes": round(minutes, 1), "of_minutes": round(self._limit / 60, 1)}
        self._here.store.projects.update(self._here.id, progress={**progress, "share": share})
