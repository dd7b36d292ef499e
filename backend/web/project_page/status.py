"""What a project is doing, what it used and what it asks next, as plain facts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from backend.rounds.steps import IDLE
from backend.storage import artifacts, ledger, records
from backend.storage.artifacts import Artifacts
from backend.storage.ledger import DraftQuality, Ledger, stored_options
from backend.storage.projects import pause_left, spacing
from backend.storage.records import REVIEW, SELECTION_GAIN, ModelQuality, QueueRecord
from backend.storage.store import Store
from backend.storage.tables import Project, Publication
from backend.web.project_page import review_panel, selection_gain, stopping_panel
from model.evaluation import MAIN
from model.registry import QUICK

NEXT_SHOWN = 10
LISTED = 100  # scans and annotations of one list; their number is told beside it

KEPT = 64  # projects whose status is kept

T = TypeVar("T")

# What of a project's row tells that its status may be another one.
_WATCHED = (
    "requested",
    "completed",
    "full_synced_at",
    "title",
    "disconnected",
    "vanished_at",
    "live_version",
    "step",
    "problem",
    "fix",
    "warnings",
    "options",
    "options_problem",
    "webhook_refused_at",
)


@dataclass
class _Memo(Generic[T]):
    """What was made of one project, and what the project was like."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    facts: object = None
    made: T | None = None


class Keeper(Generic[T]):
    """Something that is made of a project, made anew only when the project may have changed.

    Pages ask every few seconds, and reading the ledger of a large project takes seconds. Who asks
    while it is made waits for it and takes it; nobody waits for another project's.
    """

    def __init__(self, store: Store, make: Callable[[int], T], most: int) -> None:
        self._store = store
        self._make = make
        self._most = most
        self._kept: OrderedDict[int, _Memo[T]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, project: Project) -> T:
        """Return what is made of a project as it now is."""
        # Looked at before anything is made: what changes in between is read once more.
        facts = self._facts(project)
        kept = self._kept_of(project.id)
        with kept.lock:
            if kept.made is None or kept.facts != facts:
                kept.made, kept.facts = self._make(project.id), facts
            return kept.made

    def _kept_of(self, project_id: int) -> _Memo[T]:
        """Return what is kept of a project, and drop what was not asked for the longest."""
        with self._lock:
            kept = self._kept.setdefault(project_id, _Memo())
            self._kept.move_to_end(project_id)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return kept

    def _facts(self, project: Project) -> tuple[object, ...]:
        return (
            *(getattr(project, name) for name in _WATCHED),
            self._store.publications.pinned(project.id),
            self._store.rounds.last(project.id),
            ledger.counts(self._store, project.id),
            self._store.annotators.figures_digest(project.id),
            self._store.studies.digest(project.id, SELECTION_GAIN),
            self._store.studies.digest(project.id, REVIEW),
            len(self._store.publications.confirmed(project.id)),
        )


class Statuses:
    """The status of every project that is asked for."""

    def __init__(self, store: Store, files: Artifacts) -> None:
        self._store = store
        self._lasting = Keeper(store, lambda number: status(store, files, number), KEPT)

    def of(self, project_id: int) -> dict[str, Any]:
        """Return what `status` does.

        Raises:
            NotFound: If the project is not known here.
        """
        project = self._store.projects.known(project_id)
        lasting = self._lasting.of(project)
        return {**lasting, **_activity(project, lasting, self._store.clock())}


def status(
    store: Store, files: Artifacts, project_id: int, now: Ledger | None = None
) -> dict[str, Any]:
    """Return what `GET /projects/<id>?format=json` answers, but for its sentences.

    Its `digest` is another one whenever anything in it is, but for what runs now and how far it is.

    Args:
        store: The project's memory.
        files: For the records of the rounds.
        project_id: The project's number in Label Studio.
        now: The project's ledger, if it was read already.

    Raises:
        NotFound: If the project is not known here.
    """
    project = store.projects.known(project_id)
    now = now or ledger.read(store, project_id)
    live = (
        store.publications.get(project_id, project.live_version) if project.live_version else None
    )
    record = _record(files, project_id, live)
    lasting = {
        "project": project.id,
        "title": project.title,
        "disconnected": project.disconnected,
        "gone": project.disconnected,  # its name until 0.1; read "disconnected"
        "vanished_since": project.vanished_at or None,
        "pinned": store.publications.pinned(project_id) or None,
        **_labels(now, live),
        **_waiting(now, record),
        **_quality(store, project_id, live, now),
        **_figures(store, project_id, now),
        "selection_gain": selection_gain.figures(store, project),
        "review": review_panel.facts(store, project, now),
        "last_model": _last_model(store, project_id) if now.complete else None,
        "method": stored_options(project).method_in_use,
        "strategy": record.strategy,
        "alike": record.alike,
        "clusters": record.clusters,
        "clusters_labelled": record.clusters_labelled,
        **_sources(now),
        "next": _next(record, live, now),
        **_unreadable(now),
        "warnings": project.warnings,
        "problem": project.problem,
        "fix": project.fix,
        "options_problem": project.options_problem,
        "events_refused_since": project.webhook_refused_at or None,
        "round": store.rounds.last(project_id),
    }
    digest = artifacts.digest(lasting)
    return {**lasting, "digest": digest, **_activity(project, lasting, store.clock())}


def _activity(project: Project, lasting: Mapping[str, Any], now: float) -> dict[str, Any]:
    return {
        "next_round": next_round(project, lasting, now),
        "step": project.step or None,
        "step_seconds": round(now - project.step_at, 1) if project.step else None,
        "progress": project.progress,
        "requested": project.requested,
        "completed": project.completed,
        # As they were called before; they go with the next release.
        "mend": project.fix,
        "wanted": project.requested,
        "done": project.completed,
        "synced_at": project.full_synced_at or None,
    }


def next_round(project: Project, state: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return why the next round of a project waits; `sentences.next_round` says it in words.

    Args:
        project: Its row.
        state: What `status` knows of its labels and scans, and what is pinned.
        now: Seconds since the epoch.

    Returns:
        `reason`: A word of `_reason`. `labels` and `needed`: How many labels changed since the
        live queue was made, and how many make a round due. `seconds`: Until Label Studio is read
        again; None when that waits for news or for the worker. `every`: The least seconds between
        two rounds.
    """
    left = pause_left(project, now)
    waits = project.requested > project.completed and not project.step and left > 0
    return {
        "reason": _reason(project, state, waits=waits),
        "labels": state["labels_changed"],
        "needed": stored_options(project).retrain_after,
        "seconds": round(left, 1) if waits else None,
        "every": spacing(project),
    }


def _reason(project: Project, state: Mapping[str, Any], *, waits: bool) -> str:
    """Return the first of these that holds for a project."""
    wanted = project.requested > project.completed
    reasons = {
        "disconnected": project.disconnected,
        "vanished": bool(project.vanished_at),
        "running": bool(project.step) and project.step not in IDLE,
        "problem": bool(project.problem),
        "paused": stored_options(project).paused,
        "asked": project.train_requested > project.completed and not state["pinned"],
        "spacing": waits,
        "worker": wanted,
        "pinned": bool(state["pinned"]),
        "complete": state["complete"],
        "scans": not state["scans_waiting"],
        "labels": True,
    }
    return next(reason for reason, holds in reasons.items() if holds)


def _labels(now: Ledger, live: Publication | None) -> dict[str, Any]:
    ignored = [found for found in now.annotations if found.id in now.ignored]
    return {
        "live_version": live.name if live else None,
        "labels_in_live": live.labels if live else 0,
        "labels_used": len(now.usable),
        "labels_ignored": [
            {"annotation": found.id, "task": found.task_id, "reason": now.ignored[found.id]}
            for found in ignored[:LISTED]
        ],
        "labels_ignored_count": len(ignored),
        "scans": len(now.tasks),
        "labelled": len(now.usable),
        "complete": now.complete,
    }


def _waiting(now: Ledger, record: QueueRecord) -> dict[str, int]:
    """Return how many labels changed since a round, and how many scans wait for their first."""
    return {
        "labels_changed": now.changed_since(record.labels),
        "scans_waiting": len(now.waiting),
    }


def _sources(now: Ledger) -> dict[str, int]:
    """Return how many sources the scans have, and how many of these have a label."""
    names = now.sources
    labelled = {names[task] for task in now.usable if task in names}
    return {"sources": len(set(names.values())), "sources_labelled": len(labelled)}


def _unreadable(now: Ledger) -> dict[str, Any]:
    listed = list(now.unreadable.items())[:LISTED]
    return {
        "unreadable": [{"task": task, "problem": why} for task, why in listed],
        "unreadable_count": len(now.unreadable),
    }


def _quality(
    store: Store, project_id: int, live: Publication | None, now: Ledger
) -> dict[str, Any]:
    drafts = DraftQuality.of(ledger.quality_drafts(store, project_id, now)[-ledger.RECENT_DRAFTS :])
    model = (
        store.publications.model(project_id, live.model_key) if live and live.model_key else None
    )
    return {
        "prequential_dice": drafts.dice,
        "drafts_compared": drafts.compared,
        "drafts_unchanged": drafts.unchanged,
        "changed_draft_dice": drafts.changed_dice,
        "validation_dice": model.quality.validation.get(MAIN.name) if model else None,
        "calibration_error": model.quality.calibration_error if model else None,
        "volumes": [each.written() for each in model.quality.volumes] if model else [],
        "refinement": _refinement(model.quality) if model else None,
        "recipe": next(iter(model.quality.recipes), "") if model else "",
    }


def _figures(store: Store, project_id: int, now: Ledger) -> dict[str, Any]:
    """Return what labels cost and how well people agree, and whether labelling can stop."""
    found = store.annotators.figures(project_id)
    named = stopping_panel.with_names(found.stopping, now.sources)
    return {**found.model_dump(), "stopping": named}


def _refinement(quality: ModelQuality) -> dict[str, Any] | None:
    """Return the recipes of a refined model, and the best one's Dice against a round's recipe."""
    if not quality.refined_from:
        return None
    return {
        "recipes": quality.recipes,
        "from": quality.compared.get(QUICK),
        "to": max(quality.compared.values(), default=None),
    }


def _last_model(store: Store, project_id: int) -> dict[str, Any] | None:
    """Return what the newest model that was not refused was trained on, and how good it is."""
    models = [model for model in store.publications.models(project_id) if model.accepted]
    if not models:
        return None
    return {
        "labels": models[-1].labels,
        "dice": models[-1].quality.validation.get(MAIN.name),
        "held_out": models[-1].quality.validation_scans,
    }


def _next(record: QueueRecord, live: Publication | None, now: Ledger) -> list[dict[str, Any]]:
    if live is None:
        return []
    reasons = record.explained(now.sources)
    waiting = [task for task in live.published if task in now.open]
    return [
        {"task": task, "position": position, "reason": reasons.get(task, "")}
        for position, task in enumerate(waiting[:NEXT_SHOWN], start=1)
    ]


def _record(files: Artifacts, project_id: int, live: Publication | None) -> QueueRecord:
    """Return the record of the round that made the live queue, empty without one."""
    found = records.read_queue(files.of(project_id), live.round) if live else None
    return found or QueueRecord()
