"""The quality of drafts: each is scored against the annotation then submitted on its scan."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from backend.label_studio import labels
from backend.label_studio.moments import moment
from backend.rounds.between import SlicesBetween
from backend.rounds.context import RoundContext
from backend.storage import artifacts, ledger
from backend.storage.artifacts import ProjectFiles
from backend.storage.ledger import DraftQuality
from backend.storage.tables import DraftScore, Publication
from model import evaluation


def judge_drafts(here: RoundContext) -> None:
    """Score the drafts of scans labelled since the last call (prequential quality).

    A draft is stored before it can be shown, so its label could not influence it.
    """
    store, project, now = here.store, here.project, here.ledger
    known = {score.task_id for score in store.labels.draft_scores(project.id)}
    shown = [version for version in store.publications.all(project.id) if version.live_at]
    sizes = {task.id: (task.height, task.width) for task in now.tasks}
    between = SlicesBetween(here)
    drafts_of = cache(partial(_drafts, here.files))
    judged = False
    for task_id, usable in now.usable.items():
        if task_id in known:
            continue
        version = _shown_at(shown, moment(usable[0].created_at))
        draft = drafts_of(version.drafts).get(str(task_id)) if version else None
        if version is None or draft is None or not all(sizes[task_id]):
            continue
        try:
            [submitted] = store.labels.results(project.id, [usable[0].id])
            dice = _dice(draft, submitted, here.config, sizes[task_id])
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


def _shown_at(versions: list[Publication], when: float) -> Publication | None:
    """Return the publication that was live at that moment."""
    before = [version for version in versions if version.live_at <= when]
    return max(before, key=lambda version: version.live_at, default=None)


def _drafts(files: ProjectFiles, name: str) -> dict[str, list[Any]]:
    """Return the drafts of a publication by task id; empty if it has no drafts."""
    drafts: dict[str, list[Any]] = files.read_json(artifacts.drafts_named(name)) if name else {}
    return drafts or {}


def _dice(
    draft: list[Any], submitted: list[Any], config: labels.LabelConfig, size: tuple[int, int]
) -> float:
    """Return the mean Dice over the classes that either mask holds, 1.0 if both are empty."""
    # One class at a time: at the original's size the masks of all classes may not fit into memory.
    drawn, truth = (labels.planes(result, config, size=size) for result in (draft, submitted))
    return evaluation.scan_dice(drawn, truth)
