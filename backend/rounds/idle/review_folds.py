"""Let networks judge the labels that they never saw, fold by fold.

A plan fixes which scans each fold holds, and each fold is stored when it ends. So a review that had
to make way for a round goes on where it stopped. Labels may change meanwhile: a finished fold stays
right about its scans, because its network never saw them, and each suspicion names its label.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from itertools import groupby

import numpy as np

from backend.rounds.context import RoundContext
from backend.rounds.drafts import drafting
from backend.rounds.idle import review_files, review_list
from backend.rounds.idle.review_files import Regions
from backend.rounds.models.examples import Example, labelled
from backend.storage import artifacts
from backend.storage.records import ReviewedScan, ReviewPlan
from model import review
from model.refinement import Stopped, split

log = logging.getLogger(__name__)

Judged = tuple[Example, review.Probabilities]  # a page, and what a network sees on it


def classes(here: RoundContext) -> str:
    """Return a digest of all that masks depend on beside the annotations."""
    config = here.config
    return artifacts.digest(config.labels, sorted(config.rows.items()), here.options.merge)


def plan(here: RoundContext) -> ReviewPlan:
    """Return the plan of a review of today's labels."""
    tasks = sorted(here.ledger.usable)
    rows = split([here.ledger.groups[task] for task in tasks], here.options.seed, review.FOLDS)
    folds = [
        [task for task, row in zip(tasks, rows, strict=True) if row == fold]
        for fold in range(review.FOLDS)
    ]
    keys = [here.ledger.keys_of(task) for task in tasks]
    name = artifacts.digest(classes(here), folds, keys)
    return ReviewPlan(name=name, classes=classes(here), folds=folds)


def judge(here: RoundContext, planned: ReviewPlan, stop: Callable[[], bool]) -> list[ReviewedScan]:
    """Return the suspicion of each scan of a plan that still has a label.

    Raises:
        Stopped: If `stop` returned True; the folds that ended are kept.
        FirstlightError: If scans cannot be read.
    """
    usable = here.ledger.usable
    folds = [[task for task in fold if task in usable] for fold in planned.folds]
    tasks = sorted(task for fold in folds for task in fold)
    examples: list[Example] = []
    judged: list[ReviewedScan] = []
    for number, fold in enumerate(folds):
        name = review_files.name_of(planned.name, number)
        scans = review_files.scans(here.files, name)
        if scans is None:
            examples = examples or list(here.learner.examples(here.ledger, tasks, stop))
            progress = {"done": sum(map(len, folds[:number])), "total": len(tasks)}
            here.store.projects.update(here.id, progress=progress)
            scans = _judge_fold(here, name, examples, set(fold), stop)
            log.info("reviewed %d labels, part %d of %d", len(fold), number + 1, len(folds))
        judged += (scan for scan in scans if scan.task in usable)
    return judged


def _judge_fold(
    here: RoundContext,
    name: str,
    examples: Sequence[Example],
    held: Set[int],
    stop: Callable[[], bool],
) -> list[ReviewedScan]:
    """Return and store what a network says about the held tasks that learnt from the others.

    Raises:
        Stopped: If `stop` returned True; nothing is stored.
    """
    groups = here.ledger.groups
    of_held = {groups[task] for task in held}
    # Groups may have been joined since the plan: whatever shares one with a held scan teaches
    # nothing.
    pages = [page for page in examples if page.task in held or groups[page.task] not in of_held]
    rows = np.array([page.task in held for page in pages], bool)
    judged: list[Judged] = []
    if rows.any() and not rows.all():
        predicted = review.out_of_fold(
            labelled(pages, groups), rows, here.learner.train_config, stop=stop
        )
        judged = list(zip([pages[row] for row in np.flatnonzero(rows)], predicted, strict=True))
    by_task = {task: list(of_task) for task, of_task in groupby(judged, lambda of: of[0].task)}
    scans = [_suspicion(here, name, of_task) for of_task in by_task.values()]
    expected = {task: _expected(here, of_task) for task, of_task in by_task.items()}
    if stop():  # the project may be forgotten by now
        raise Stopped
    review_files.write(here.files, name, scans, expected)
    return scans


def _suspicion(here: RoundContext, file: str, pages: Sequence[Judged]) -> ReviewedScan:
    """Return the suspicion of a label: of a slab, that of its most suspicious page."""
    suspicions = [review.suspicion(probabilities, page.mask) for page, probabilities in pages]
    worst = max(range(len(pages)), key=lambda number: suspicions[number].score)
    page, found, names = pages[worst][0], suspicions[worst], here.config.labels
    return ReviewedScan(
        task=page.task,
        label=review_list.label_of(here.ledger, page.task),
        annotations=[each.id for each in here.ledger.usable[page.task]],
        score=round(found.score, 4),
        share=round(found.share, 4),
        reason=found.reason,
        about=names[found.label],
        other="" if found.other is None else names[found.other],
        file=file,
        page=page.page,
    )


def _expected(here: RoundContext, pages: Sequence[Judged]) -> Regions:
    """Return the regions that the network expects on all pages of a scan."""
    page = pages[0][0]
    sides = zip(page.image.shape, page.spacing, strict=False)
    height, width = (round(side * pixels) for side, pixels in sides)
    return drafting.regions([each for _, each in pages], (height, width), here.config)
