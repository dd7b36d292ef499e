"""How much of their drafts people changed, in pixels: over all, by label and by origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.rounds.context import RoundContext
from backend.storage.tables import Annotation, DraftScore
from model import resampling

Changed = tuple[Annotation, DraftScore]


def figures(here: RoundContext) -> dict[str, Any] | None:
    """Return the share of the pixels of drafts that people changed; None while it is unknown.

    Pixels that differ between draft and submitted mask are divided by the pixels of the draft, so
    the share is above 1 if people added more than the draft held. Only labels that began with the
    draft count: others were drawn beside it.
    """
    labels = _changed(here)
    if not labels:
        return None
    totals = [_pixels(score) for _, score in labels]
    interval = resampling.ratio(*np.array(totals, float).T, seed=here.options.seed)
    return {
        "labels": len(labels),
        "share": interval._asdict() if interval else None,
        "by_label": _by_label([score for _, score in labels]),
        "by_origin": _by_origin(labels),
    }


def _changed(here: RoundContext) -> list[Changed]:
    """Return the first label of each scan that began with a compared draft, and its comparison."""
    scores = {score.task_id: score for score in here.store.labels.draft_scores(here.id)}
    firsts = [of_scan[0] for of_scan in here.ledger.usable.values()]
    return [
        (label, scores[label.task_id])
        for label in firsts
        if label.kept + label.changed and label.task_id in scores and scores[label.task_id].pixels
    ]


def _pixels(score: DraftScore) -> tuple[int, int]:
    """Return the changed pixels and those of the draft, all labels together."""
    counts = score.pixels.values()
    return sum(of["changed"] for of in counts), sum(of["draft"] for of in counts)


def _by_label(scores: Sequence[DraftScore]) -> dict[str, float]:
    totals: dict[str, list[int]] = {}
    for score in scores:
        for name, of in score.pixels.items():
            total = totals.setdefault(name, [0, 0])
            total[0] += of["changed"]
            total[1] += of["draft"]
    return {name: changed / draft for name, (changed, draft) in totals.items() if draft}


def _by_origin(labels: Sequence[Changed]) -> list[dict[str, Any]]:
    """Return number of labels, share of changed pixels and mean Dice, by what people did."""
    kinds: dict[str, list[DraftScore]] = {"kept": [], "changed": [], "drawn": []}
    for label, score in labels:
        kinds["drawn" if label.manual else "changed" if label.changed else "kept"].append(score)
    return [{"origin": kind, **_summary(scores)} for kind, scores in kinds.items() if scores]


def _summary(scores: Sequence[DraftScore]) -> dict[str, Any]:
    changed, draft = np.sum([_pixels(score) for score in scores], axis=0).tolist()
    return {
        "labels": len(scores),
        "share": changed / draft if draft else None,
        "dice": float(np.mean([score.dice for score in scores])),
    }
