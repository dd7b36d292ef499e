"""Gather the time of every label, and what drafts changed about it, as figures for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.label_studio.moments import moment
from backend.rounds.context import RoundContext
from backend.rounds.drafts import draft_changes
from backend.rounds.label_times import is_drafted, work_of
from backend.storage.tables import Annotation
from model import minutes, resampling
from model.minutes import Work

Floats = npt.NDArray[np.float64]

LONGEST_SHOWN = 10


def figures(here: RoundContext) -> dict[str, Any] | None:
    """Return what the labels of a project cost; None while no label has a known time."""
    labels = [label for of_scan in here.ledger.usable.values() for label in of_scan]
    timed = sorted((label for label in labels if label.seconds), key=lambda label: label.id)
    if not timed:
        return None
    raw, seed = work_of(timed), here.options.seed
    work = raw.capped()
    return {
        "labels": len(timed),
        "untimed": len(labels) - len(timed),
        "total": float(work.minutes.sum()),
        "median": float(np.median(work.minutes)),
        "mean": _written(resampling.mean(work.minutes, seed=seed)),
        "capped": int(np.count_nonzero(work.minutes < raw.minutes)),
        "cut": float((raw.minutes - work.minutes).sum()),
        "drafts": _drafts(here, labels),
        "saved": _saved(work, seed),
        "forecast": _forecast(here, work, seed),
        "weeks": _weeks(timed, work.minutes),
        "annotators": _annotators(here, work),
        "longest": _longest(timed, work.minutes),
    }


def _drafts(here: RoundContext, labels: Sequence[Annotation]) -> dict[str, Any]:
    """Return how many labels came from a draft, and how much of their drafts was changed."""
    drafted = [label for label in labels if is_drafted(label)]
    tasks = {label.task_id for label in drafted}
    scores = here.store.labels.draft_scores(here.id)
    dice = [score.dice for score in scores if score.task_id in tasks]
    return {
        "used": len(drafted),
        "unchanged": sum(label.changed + label.manual == 0 for label in drafted),
        "without": len(labels) - len(drafted),
        "regions_kept": sum(label.kept for label in drafted),
        "regions_changed": sum(label.changed for label in drafted),
        "regions_added": sum(label.manual for label in drafted),
        "dice": fmean(dice) if dice else None,
        "pixels": draft_changes.figures(here),
    }


def _saved(work: Work, seed: int) -> dict[str, Any] | None:
    """Return the minutes that drafts saved so far; None while it is too early to tell."""
    saved = minutes.saved(work, seed=seed)
    if saved is None:
        return None
    return {
        **asdict(saved),
        "per_label": _written(saved.per_label),
        "total": _written(saved.total),
    }


def _forecast(here: RoundContext, work: Work, seed: int) -> dict[str, Any] | None:
    """Return the minutes that the waiting scans will take; None while it is too early to tell."""
    waiting = len(here.ledger.waiting)
    expected = minutes.forecast(work.minutes, waiting, seed=seed) if waiting else None
    return {"scans": waiting, **expected._asdict()} if expected else None


def _weeks(timed: Sequence[Annotation], taken: Floats) -> list[dict[str, Any]]:
    """Return labels and minutes of each week with a label, oldest first; weeks begin on Monday."""
    weeks: dict[str, list[float]] = {}
    for label, of in zip(timed, taken.tolist(), strict=True):
        day = datetime.fromtimestamp(moment(label.created_at), UTC).date()
        monday = day - timedelta(days=day.weekday())
        weeks.setdefault(monday.isoformat(), []).append(of)
    return [{"week": week, **_summary(of)} for week, of in sorted(weeks.items())]


def _longest(timed: Sequence[Annotation], taken: Floats) -> list[dict[str, Any]]:
    """Return the scans that took longest, all labels of a scan together."""
    scans: dict[int, float] = {}
    for label, of in zip(timed, taken.tolist(), strict=True):
        scans[label.task_id] = scans.get(label.task_id, 0.0) + of
    longest = sorted(scans, key=lambda task: (-scans[task], task))[:LONGEST_SHOWN]
    return [{"task": task, "minutes": scans[task]} for task in longest]


def _annotators(here: RoundContext, work: Work) -> list[dict[str, Any]]:
    """Return the figures of each annotator, by number; by speed only if the project allows it."""
    found = [
        {"annotator": number, **_summary(work.minutes[work.annotator == number].tolist())}
        for number in np.unique(work.annotator).tolist()
        if number
    ]
    ranked = here.options.show_people
    return sorted(found, key=lambda of: of["median"]) if ranked else found


def _summary(taken: Sequence[float]) -> dict[str, Any]:
    return {"labels": len(taken), "minutes": sum(taken), "median": float(np.median(taken))}


def _written(interval: resampling.Interval | None) -> dict[str, float] | None:
    return interval._asdict() if interval else None
