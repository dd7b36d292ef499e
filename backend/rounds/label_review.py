"""Look for wrong labels in idle time, and show the suspicious ones in Label Studio.

Quick networks predict every labelled scan without having seen its label (`model.review`). Each
fold is stored when it ends, so a review that had to make way goes on where it stopped, as long as
the labels are the same.

In Label Studio a suspicion is a prediction of the live version on a labelled task. Its score is
above every score of the queue, so that no suspicion ever comes before a scan of the queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from itertools import groupby, islice
from typing import Any

import numpy as np

from backend.label_studio import review_predictions, review_tab
from backend.label_studio.queue_import import QueueItem
from backend.rounds import drafts, review_list
from backend.rounds.context import RoundContext
from backend.rounds.examples import Example, labelled
from backend.storage import artifacts
from backend.storage.records import ReviewedScan, ReviewRecord
from backend.storage.tables import Publication
from model import review
from model.refinement import Stopped, split

log = logging.getLogger(__name__)

# Suspicions in the tab. It is read from the top, and a round must not wait for thousands of masks.
MOST_SHOWN = 200

Fold = dict[str, dict[str, Any]]  # what was found out about each scan, by task id as text


class LabelReview:
    """The study of the labels: a suspicion for each, whenever a new queue is live."""

    name = review_list.NAME

    def due(self, here: RoundContext) -> bool:
        """Return whether a queue went live after the last review, and there are enough labels."""
        live = _live(here)
        if live is None or live.labels < review_list.LEAST_GROUPS or not here.options.review:
            return False
        return here.store.studies.digest(here.id, self.name) != live.name

    def run(self, here: RoundContext, stop: Callable[[], bool]) -> None:
        """Review all labels, publish the suspicions, and store them for the page.

        Raises:
            Stopped: If `stop` returned True; the folds that ended are kept.
            FirstlightError: If scans cannot be read, or Label Studio does not answer.
        """
        live = _live(here)
        if live is None:
            return
        task_ids = sorted(here.ledger.usable)
        enough = (
            len({here.ledger.groups[task_id] for task_id in task_ids}) >= review_list.LEAST_GROUPS
        )
        files = _folds(here, task_ids, stop) if enough else []
        found = {int(task): (file, of) for file in files for task, of in _read(here, file).items()}
        scans = [_reviewed(task, *found[task]) for task in sorted(found)]
        scans.sort(key=lambda scan: -scan.score)
        if stop():
            raise Stopped
        published = _publish(here, live, scans, {task: of for task, (_, of) in found.items()})
        record = ReviewRecord(scans=scans, published=published)
        here.store.studies.save(here.id, self.name, live.name, record.written())
        for old in set(here.files.names(artifacts.REVIEWS)) - set(files):
            here.files.remove(old)


def _live(here: RoundContext) -> Publication | None:
    return here.store.publications.get(here.id, here.project.live_version)


# -- the folds ------------------------------------------------------------------------------------


def _folds(here: RoundContext, task_ids: Sequence[int], stop: Callable[[], bool]) -> list[str]:
    """Return the file of each fold; those that do not exist yet are made."""
    key = here.learner.key(here.ledger, task_ids)
    folds = split([here.ledger.groups[i] for i in task_ids], here.options.seed, review.FOLDS)
    names = [f"{artifacts.REVIEWS}/{key}-{fold}.json" for fold in range(review.FOLDS)]
    missing = [fold for fold, name in enumerate(names) if not here.files.exists(name)]
    examples = list(here.learner.examples(here.ledger, task_ids, stop)) if missing else []
    for fold in missing:
        held = {task for task, of_task in zip(task_ids, folds, strict=True) if of_task == fold}
        progress = {"done": int((folds < fold).sum()), "total": len(task_ids)}
        here.store.projects.update(here.id, progress=progress)
        here.files.write_json(names[fold], _fold(here, examples, held, stop))
        log.info("reviewed %d labels, part %d of %d", len(held), fold + 1, review.FOLDS)
    return names


def _fold(
    here: RoundContext,
    examples: Sequence[Example],
    held: Set[int],
    stop: Callable[[], bool],
) -> Fold:
    """Return what a network that was trained on the other scans says about the held tasks."""
    scans = labelled(examples, here.ledger.groups)
    rows = np.array([example.task in held for example in examples])
    predicted = review.out_of_fold(scans, rows, here.learner.train_config, stop=stop)
    judged = zip([examples[row] for row in np.flatnonzero(rows)], predicted, strict=True)
    return {
        str(task): _judged(here, list(pages))
        for task, pages in groupby(judged, lambda page: page[0].task)
    }


def _judged(
    here: RoundContext, pages: Sequence[tuple[Example, review.Probabilities]]
) -> dict[str, Any]:
    """Return the suspicion of a label: of a slab, that of its most suspicious page."""
    suspicions = [review.suspicion(probabilities, page.mask) for page, probabilities in pages]
    worst = max(range(len(pages)), key=lambda number: suspicions[number].score)
    (example, _), found, classes = pages[worst], suspicions[worst], here.config.labels
    sides = zip(example.image.shape, example.spacing, strict=False)
    height, width = (round(side * pixels) for side, pixels in sides)
    return {
        "label": review_list.label_of(here.ledger, example.task),
        "annotations": [each.id for each in here.ledger.usable[example.task]],
        "score": round(found.score, 4),
        "share": round(found.share, 4),
        "reason": found.reason,
        "about": classes[found.label],
        "other": "" if found.other is None else classes[found.other],
        "page": example.page,
        "regions": drafts.regions([each for _, each in pages], (height, width), here.config),
    }


def _read(here: RoundContext, file: str) -> Fold:
    fold: Fold = here.files.read_json(file) or {}
    return fold


def _reviewed(task: int, file: str, of_scan: dict[str, Any]) -> ReviewedScan:
    kept = {name: value for name, value in of_scan.items() if name != "regions"}
    return ReviewedScan(task=task, file=file, **kept)


# -- in Label Studio ------------------------------------------------------------------------------


def _publish(
    here: RoundContext, live: Publication, scans: Sequence[ReviewedScan], found: dict[int, Any]
) -> int:
    """Publish the highest suspicions; return how many Label Studio holds of them.

    A task that the live queue holds has a prediction of the live version already. It was labelled
    after that queue was made, and waits for the next one. Two predictions of one version on a task
    would corrupt Label Studio's order, should its annotation be deleted.
    """
    confirmed = here.store.publications.confirmed(here.id)
    closed = set(here.ledger.usable) - here.ledger.open - set(live.published)
    listed = (
        scan for scan in scans if scan.task in closed and (scan.task, scan.label) not in confirmed
    )
    shown = list(islice(listed, MOST_SHOWN))
    studio = here.services.studio
    if shown and not review_list.read(here.store, here.id).published:
        review_tab.ensure(studio, here.id)
    rows = [QueueItem(scan.task, found[scan.task]["regions"]) for scan in shown]
    suspicions = {scan.task: scan.score for scan in shown}
    review_predictions.publish(studio, here.id, live.name, rows, suspicions)
    return len(shown)
