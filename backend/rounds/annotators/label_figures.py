"""What the labels of a project cost and how well its annotators agree, stored for the page.

The worker computes the figures after every sync; the web process only reads them.
"""

from __future__ import annotations

from backend.rounds.annotators import agreement, minutes
from backend.rounds.context import RoundContext
from backend.rounds.drafts.draft_quality import score_drafts
from backend.storage.records import LabelRecord


def judge_labels(here: RoundContext) -> None:
    """Score new drafts, compare new masks of several annotators, and store all figures."""
    score_drafts(here)
    unfinished = agreement.compare(here)
    record = LabelRecord(
        minutes=minutes.figures(here),
        agreement=agreement.figures(here),
        people=_people(here),
        stopping=here.store.annotators.figures(here.id).stopping,  # a training judges it anew
    )
    here.store.annotators.save_figures(here.id, record)
    if unfinished:
        here.store.projects.request_refresh(here.id)


def _people(here: RoundContext) -> dict[str, int]:
    """Return the Label Studio user of each annotator's number, if the project allows it."""
    if not here.options.show_people:
        return {}
    return {str(row.number): row.user for row in here.store.annotators.all(here.id)}
