"""The quality of drafts: each is scored against the annotation then submitted on its scan."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

from backend.label_studio import labels
from backend.label_studio.moments import moment
from backend.rounds.between import DRAWN_BETWEEN, SlicesBetween
from backend.rounds.context import RoundContext
from backend.storage import artifacts, ledger, pages, records
from backend.storage.artifacts import ProjectFiles
from backend.storage.ledger import DraftQuality
from backend.storage.scans import ListedScan
from backend.storage.tables import DraftScore, Publication
from model.evaluation import MAIN


def judge_drafts(here: RoundContext) -> None:
    """Score the drafts of scans labelled since the last call (prequential quality).

    A draft is stored before it can be shown, so its label could not influence it. A slice that
    showed a draft between its neighbours' labels is left out: nobody saw the model's draft.
    """
    store, project, now = here.store, here.project, here.ledger
    known = {score.task_id for score in store.labels.draft_scores(project.id)}
    shown = [version for version in store.publications.all(project.id) if version.live_at]
    between = SlicesBetween(here)
    drafts_of = cache(partial(_drafts, here.files))
    control_of = cache(partial(_control, here))
    between_of = cache(partial(_drawn_between, here))
    judged = False
    for task_id, usable in now.usable.items():
        if task_id in known:
            continue
        version = shown_at(shown, moment(usable[0].created_at))
        draft = drafts_of(version.drafts).get(str(task_id)) if version else None
        if version is None or draft is None or not now.scans[task_id].height:
            continue
        if task_id in between_of(version.round):
            continue
        try:
            [submitted] = store.labels.results(project.id, [usable[0].id])
            dice, pixels = _compared(draft, submitted, here.config, now.scans[task_id])
            others = between.score(task_id, submitted)
        except ValueError:
            continue  # a draft of a former label config says nothing about today's labels
        store.labels.save_draft_score(
            DraftScore(
                project_id=project.id,
                task_id=task_id,
                version=version.name,
                created_at=usable[0].created_at,
                dice=dice,
                control=task_id in control_of(version.round),
                pixels=pixels,
                **others,
            )
        )
        judged = True
    if judged:
        # Store the result now, while the ledger is loaded: /metrics is too slow if it reads it.
        last = DraftQuality.of(
            ledger.quality_drafts(store, project.id, now)[-ledger.RECENT_DRAFTS :]
        )
        store.projects.update(
            project.id,
            draft_dice=last.dice,
            unchanged_drafts=last.share_unchanged,
            changed_draft_dice=last.changed_dice,
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

    The Dice is 1.0 if both masks are empty. The pages of a slab count together: an empty page of
    each would score 1.0 by itself. Of each class the pixels are those of the draft, and those that
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
