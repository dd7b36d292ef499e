"""The drafts of a round: for which scans, whether people see them, and how long they stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.rounds import drafts, prelabels
from backend.rounds.context import RoundContext
from backend.storage import artifacts
from backend.storage.artifacts import ProjectFiles

KEPT_DRAFTS = 20  # rounds
JUDGED_DRAFTS = 100  # more than are labelled while a round is made


def draw(here: RoundContext, queue: Sequence[int], key: str) -> dict[int, list[dict[str, Any]]]:
    """Return the regions of a model's masks for the scans at the head of a queue, by task id.

    Drafts are drawn even while they are hidden: the next annotations then measure the model.
    """
    horizon = here.options.horizon
    head = queue[: horizon if are_shown(here) else min(horizon, JUDGED_DRAFTS)]
    urls = here.store.scans.addresses(here.id, head)
    wanted = [(task_id, urls[task_id]) for task_id in head]
    return {
        task_id: drafts.regions(probabilities, scan.size, here.config)
        for task_id, scan, probabilities in here.learner.predict(key, wanted)
    }


def are_shown(here: RoundContext) -> bool:
    """Return whether people see drafts now."""
    dice = [score.dice for score in here.store.labels.draft_scores(here.id)]
    return prelabels.wanted(here.project, len(here.ledger.usable), dice)


def forget_old(files: ProjectFiles) -> None:
    """Delete the drafts of rounds so old that no annotator still has one open."""
    by_round = sorted(files.names(artifacts.DRAFTS), key=artifacts.round_of)
    for name in by_round[:-KEPT_DRAFTS]:
        files.remove(name)
