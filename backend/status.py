"""What a project is doing, what it used and what it asks next, as plain facts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from backend import artifacts, ledger
from backend.ledger import Ledger
from backend.settings import Settings
from backend.store import Project, Store, Version

RECENT_DRAFTS = 5
NEXT_SHOWN = 10


def status(store: Store, settings: Settings, project_id: int) -> dict[str, Any]:
    """Return what `GET /projects/<id>?format=json` answers.

    Raises:
        NotFound: If the project is not known here.
    """
    project = store.known(project_id)
    now = ledger.read(store, project_id)
    live = store.version(project_id, project.live_version) if project.live_version else None
    return {
        "project": project.id,
        "title": project.title,
        **_activity(project, store.clock()),
        "pinned": store.pinned(project_id) or None,
        **_labels(now, live),
        **_quality(store, project_id, live, now),
        "next": _next(settings, project_id, live, now),
        "unreadable": [{"task": t, "problem": why} for t, why in now.unreadable.items()],
        "warnings": project.warnings,
        "problem": project.problem,
        "mend": project.mend,
        "options_problem": project.options_problem,
        "round": store.last_round(project_id),
    }


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
    return {
        "live_version": live.name if live else None,
        "labels_in_live": live.labels if live else 0,
        "labels_used": len(now.usable),
        "labels_ignored": [
            {"annotation": found.id, "task": found.task_id, "reason": now.ignored[found.id]}
            for found in now.annotations
            if found.id in now.ignored
        ],
        "scans": len(now.tasks),
        "labelled": len(now.usable),
        "complete": now.complete,
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
    settings: Settings, project_id: int, live: Version | None, now: Ledger
) -> list[dict[str, Any]]:
    if live is None:
        return []
    reasons = _reasons(settings, project_id, live.round)
    waiting = [task for task in live.published if task in now.open and task not in now.usable]
    return [
        {"task": task, "position": position, "reason": reasons.get(task, "")}
        for position, task in enumerate(waiting[:NEXT_SHOWN], start=1)
    ]


def _reasons(settings: Settings, project_id: int, number: int) -> Mapping[int, str]:
    path = artifacts.round_file(settings.project_folder(project_id), number)
    found = artifacts.read_json(path) or {}
    return dict(zip(found.get("order", []), found.get("reasons", []), strict=False))
