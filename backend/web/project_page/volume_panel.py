"""What the live model is worth on whole held-out volumes, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backend.web.project_page.words import count
from model.evaluation import MAIN, METRICS, Metric

LISTED = 20  # volumes; the JSON of the page has all


def volumes(state: Mapping[str, Any]) -> list[str]:
    """Return the scores of held-out volumes, the worst first; [] without one."""
    found = state["volumes"]
    if not found:
        return []
    judged, slices = (sum(each[name] for each in found) for name in ("judged", "slices"))
    means = ", ".join(filter(None, (_mean(metric, found) for metric in METRICS.values())))
    head = (
        f"{count(len(found), 'held-out volume')}, means: {means}. {judged} of {slices} slices are "
        "labelled; the others are left out."
    )
    worst = sorted(found, key=lambda each: each["scores"][MAIN.name])
    lines = [
        f"  - {each['volume']}: {_scores(each)} ({each['judged']} of {each['slices']} slices)"
        for each in worst[:LISTED]
    ]
    more = [f"  and {len(worst) - LISTED} more (?format=json lists them)"]
    return [head, *lines, *more[: len(worst) > LISTED]]


def _scores(found: Mapping[str, Any]) -> str:
    scores = found["scores"]
    return ", ".join(
        _score(metric, scores[name]) for name, metric in METRICS.items() if name in scores
    )


def _mean(metric: Metric, found: Sequence[Mapping[str, Any]]) -> str:
    values = [each["scores"][metric.name] for each in found if metric.name in each["scores"]]
    return _score(metric, float(np.mean(values))) if values else ""


def _score(metric: Metric, score: float) -> str:
    return f"{metric.title} {score:.1f} mm" if metric.unit else f"{metric.title} {score:.2f}"
