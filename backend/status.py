"""What a project is doing, what it used and what it asks next, as plain facts."""

from __future__ import annotations

import statistics
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from backend import artifacts, ledger
from backend.artifacts import Artifacts
from backend.ledger import Ledger
from backend.store import Project, Store, Version

RECENT_DRAFTS = 5
NEXT_SHOWN = 10
LISTED = 100  # scans and annotations of one list; their number is told beside it

KEPT = 64  # projects whose status is kept

T = TypeVar("T")

# What of a project's row tells that its status may be another one.
_WATCHED = (
    "wanted",
    "done",
    "full_synced_at",
    "title",
    "gone",
    "live_version",
    "step",
    "problem",
    "mend",
    "warnings",
    "options_problem",
    "webhook_refused_at",
)


@dataclass
class _Kept(Generic[T]):
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
        self._kept: OrderedDict[int, _Kept[T]] = OrderedDict()
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

    def _kept_of(self, project_id: int) -> _Kept[T]:
        """Return what is kept of a project, and drop what was not asked for the longest."""
        with self._lock:
            kept = self._kept.setdefault(project_id, _Kept())
            self._kept.move_to_end(project_id)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return kept

    def _facts(self, project: Project) -> tuple[object, ...]:
        return (
            *(getattr(project, name) for name in _WATCHED),
            self._store.pinned(project.id),
            self._store.last_round(project.id),
            ledger.counts(self._store, project.id),
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
        project = self._store.known(project_id)
        return {**self._lasting.of(project), **_activity(project, self._store.clock())}


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
    project = store.known(project_id)
    now = now or ledger.read(store, project_id)
    live = store.version(project_id, project.live_version) if project.live_version else None
    lasting = {
        "project": project.id,
        "title": project.title,
        "gone": project.gone,
        "pinned": store.pinned(project_id) or None,
        **_labels(now, live),
        **_quality(store, project_id, live, now),
        "next": _next(files, project_id, live, now),
        **_unreadable(now),
        "warnings": project.warnings,
        "problem": project.problem,
        "mend": project.mend,
        "options_problem": project.options_problem,
        "events_refused_since": project.webhook_refused_at or None,
        "round": store.last_round(project_id),
    }
    digest = artifacts.digest(lasting)
    return {**lasting, "digest": digest, **_activity(project, store.clock())}


def _activity(project: Project, now: float) -> dict[str, Any]:
    return {
        "step": project.step or None,
        "step_seconds": round(now - project.step_at, 1) if project.step else None,
        "progress": project.progress,
        "wanted": project.wanted,
        "done": project.done,
        "synced_at": project.full_synced_at or None,
    }


def _labels(now: Ledger, live: Version | None) -> dict[str, Any]:
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


def _unreadable(now: Ledger) -> dict[str, Any]:
    listed = list(now.unreadable.items())[:LISTED]
    return {
        "unreadable": [{"task": task, "problem": why} for task, why in listed],
        "unreadable_count": len(now.unreadable),
    }


def _quality(store: Store, project_id: int, live: Version | None, now: Ledger) -> dict[str, Any]:
    scores = ledger.quality_drafts(store, project_id, now)
    recent = [score.dice for score in scores[-RECENT_DRAFTS:]]
    model = store.model(project_id, live.model_key) if live and live.model_key else None
    return {
        "prequential_dice": statistics.fmean(recent) if recent else None,
        "validation_dice": model.quality.get("validation_dice") if model else None,
        "calibration_error": model.quality.get("calibration_error") if model else None,
    }


def _next(
    files: Artifacts, project_id: int, live: Version | None, now: Ledger
) -> list[dict[str, Any]]:
    if live is None:
        return []
    reasons = _reasons(files, project_id, live.round)
    waiting = [task for task in live.published if task in now.open]
    return [
        {"task": task, "position": position, "reason": reasons.get(task, "")}
        for position, task in enumerate(waiting[:NEXT_SHOWN], start=1)
    ]


def _reasons(files: Artifacts, project_id: int, number: int) -> Mapping[int, str]:
    found = files.of(project_id).read_json(artifacts.round_name(number)) or {}
    return dict(zip(found.get("order", []), found.get("reasons", []), strict=False))
