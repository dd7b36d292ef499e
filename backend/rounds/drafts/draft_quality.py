"""The quality of drafts: each is scored against the annotation then submitted on its scan."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

from backend.label_studio import labels
from backend.label_studio.moments import moment
from backend.rounds.context import RoundContext
from backend.rounds.drafts.between import DRAWN_BETWEEN, SlicesBetween
from backend.storage import artifacts, ledger, pages, records
from backend.storage.artifacts import ProjectFiles
from backend.storage.ledger import DraftQuality
from backend.storage.scans import ListedScan
from backend.storage.tables import DraftScore, Publication
from model.evaluation import MAIN


def score_drafts(here: RoundContext) -> None:
    """Score the drafts of scans labelled since the last call (prequential quality).

    A draft is stored before it can be shown, so its label could not influence it. A slice that
    showed a draft between its neighbours' labels is left out: nobody saw the model's draft.
    """
    known = {score.task_id for score in here.store.labels.draft_scores(here.id)}
    drafts = _ShownDrafts(here)
    judged = [drafts.score(task_id) for task_id in here.ledger.usable if task_id not in known]
    scores = [score for score in judged if score]
    for score in scores:
        here.store.labels.save_draft_score(score)
    if scores:
        _store_quality(here)


def _store_quality(here: RoundContext) -> None:
    """Store the quality of the last drafts; /metrics would be too slow if it read the ledger."""
    scores = ledger.quality_drafts(here.store, here.id, here.ledger)
    last = DraftQuality.of(scores[-ledger.RECENT_DRAFTS :])
    here.store.projects.update(
        here.id,
        draft_dice=last.dice,
        unchanged_drafts=last.share_unchanged,
        changed_draft_dice=last.changed_dice,
    )


class _ShownDrafts:
    """The drafts that people saw of a project; each file is read once."""

    def __init__(self, here: RoundContext) -> None:
        self._here = here
        self._versions = [each for each in here.store.publications.all(here.id) if each.live_at]
        self._between = SlicesBetween(here)
        self._drafts_of = cache(partial(_drafts, here.files))
        self._control_of = cache(partial(_control, here))
        self._between_of = cache(partial(_drawn_between, here))

    def score(self, task_id: int) -> DraftScore | None:
        """Return the score of a labelled scan's draft; None if no model's draft was shown."""
        here, now = self._here, self._here.ledger
        label, scan = now.usable[task_id][0], now.scans[task_id]
        version = shown_at(self._versions, moment(label.created_at))
        draft = self._drafts_of(version.drafts).get(str(task_id)) if version else None
        if version is None or draft is None or not scan.height:
            return None
        if task_id in self._between_of(version.round):
            return None
        try:
            [submitted] = here.store.labels.results(here.id, [label.id])
            dice, pixels = _compared(draft, submitted, here.config, scan)
            others = self._between.score(task_id, submitted)
        except ValueError:
            return None  # a draft of a former label config says nothing about today's labels
        return DraftScore(
            project_id=here.id,
            task_id=task_id,
            version=version.name,
            created_at=label.created_at,
            dice=dice,
            control=task_id in self._control_of(version.round),
            pixels=pixels,
            **others,
        )


def shown_at(versions: list[Publication], when: float) -> Publication | None:
    """Return the publication that was live at that moment."""
    before = [version for version in versions if version.live_at <= when]
    return max(before, key=lambda version: version.live_at, default=None)


def _drafts(files: ProjectFiles, name: str) -> dict[str, list[Any]]:
    """Return the drafts of a publication by task id; empty if it has no drafts."""
    drafts: dict[str, list[Any]] = files.read_json(artifacts.drafts_named(name)) if name else {}
    return drafts or {}


def _control(here: RoundContext, number: int) -> frozenset[int]:
    """Return the scans that a round picked at random, for the control arm."""
    if not here.options.random_fraction:
        return frozenset()
    record = records.read_queue(here.files, number)
    scans = record.scans if record else {}
    return frozenset(task for task, terms in scans.items() if terms.get("control"))


def _drawn_between(here: RoundContext, number: int) -> frozenset[int]:
    """Return the slices that a round published with a draft between their neighbours' labels."""
    if not here.options.slice_by:
        return frozenset()
    queue = records.read_queue(here.files, number)
    reasons = queue.reason_of if queue else {}
    return frozenset(task for task, reason in reasons.items() if reason.endswith(DRAWN_BETWEEN))


def _compared(
    draft: list[Any], submitted: list[Any], config: labels.LabelConfig, scan: ListedScan
) -> tuple[float, dict[str, dict[str, int]]]:
    """Return the mean Dice over the classes that either mask holds, and the changed pixels.

    The Dice is 1.0 if both masks are empty. The pages of a slab count together, as in
    `Metric.of_pages`. Of each class the pixels are those of the draft, and those that
    differ between draft and submitted mask.
    """
    # One class at a time: at the original's size the masks of all classes may not fit into memory.
    size, page_count = (scan.height, scan.width), len(pages.separate(scan.url))
    drawn, truth = (
        labels.stacked(result, config, size=size, pages=page_count) for result in (draft, submitted)
    )
    scores, pixels = [], {}
    for name, mask, true in zip(config.labels, drawn, truth, strict=True):
        scores.append(MAIN.of_labels(mask[None], true[None])[0])
        differ = np.count_nonzero(mask ^ true)
        pixels[name] = {"draft": int(np.count_nonzero(mask)), "changed": int(differ)}
    return float(MAIN.mean(scores)), pixels
