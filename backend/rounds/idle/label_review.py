"""Look for wrong labels in idle time, and show the suspicious ones in Label Studio.

Quick networks predict every labelled scan without having seen its label (`review_folds`). They are
trained anew only after enough labels have changed. Under each live queue the suspicions of the last
review are shown again, because predictions in Label Studio belong to a queue.

In Label Studio a suspicion is a prediction of the live version on a labelled task. Its score is
above every score of the queue, so that no suspicion ever comes before a scan of the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice

from backend.label_studio import review_predictions, review_tab
from backend.label_studio.queue_import import QueueItem
from backend.rounds.context import RoundContext
from backend.rounds.idle import changed_labels, review_files, review_folds, review_list
from backend.rounds.idle.review_files import Regions
from backend.storage import artifacts
from backend.storage.records import REVIEW, ReviewedScan, ReviewPlan, ReviewRecord
from backend.storage.tables import Publication
from model.refinement import Stopped

# Suspicions in the tab. It is read from the top, and a round must not wait for thousands of masks.
MOST_SHOWN = 200


class LabelReview:
    """The study of the labels: a suspicion for each, shown under every live queue."""

    name = REVIEW

    def due(self, here: RoundContext) -> bool:
        """Return whether the live queue shows no suspicions yet, and there are enough labels.

        It is due too if the pictures of the last review cannot be read any more.
        """
        live = _live(here)
        if live is None or live.labels < review_list.LEAST_GROUPS or not here.options.review:
            return False
        if here.store.studies.digest(here.id, self.name) != live.name:
            return True
        return review_list.is_unreadable(here.store, here.id)

    def run(self, here: RoundContext, stop: Callable[[], bool]) -> None:
        """Review the labels if enough of them changed, and show and store the suspicions.

        Raises:
            Stopped: If `stop` returned True; the folds that ended are kept.
            FirstlightError: If scans cannot be read, or Label Studio does not answer.
        """
        live = _live(here)
        if live is None:
            return
        review = _reviewed(here, stop)
        _save(here, review, stop)
        shown = _show(here, live, review, stop)
        review = review.changed(shown=shown, tab=review.tab or bool(shown), published=None)
        _save(here, review, stop, live.name)
        kept = {scan.file for scan in review.scans}
        for old in set(here.files.names(artifacts.REVIEWS)) - kept:
            here.files.remove(old)


def _live(here: RoundContext) -> Publication | None:
    return here.store.publications.get(here.id, here.project.live_version)


def _save(
    here: RoundContext,
    review: ReviewRecord,
    stop: Callable[[], bool],
    version: str | None = None,
) -> None:
    """Store a review; `version` is the queue that shows it, None for the same as before.

    Raises:
        Stopped: If `stop` returned True: the project may be forgotten by now.
    """
    if stop():
        raise Stopped
    studies = here.store.studies
    shows = studies.digest(here.id, REVIEW) if version is None else version
    studies.save(here.id, REVIEW, shows, review.written())


def _reviewed(here: RoundContext, stop: Callable[[], bool]) -> ReviewRecord:
    """Return the last review, or a new one if it is outdated or was begun."""
    review = review_list.read(here.store, here.id)
    if not _are_enough(here, here.ledger.usable):
        return review.changed(scans=[], plan=None)
    plan = review.plan
    if plan is None or not _may_go_on(here, plan):
        if not _is_outdated(here, review):
            return review
        plan = review_folds.plan(here)
        _save(here, review.changed(plan=plan), stop)
    scans = review_folds.judge(here, plan, stop)
    scans.sort(key=lambda scan: -scan.score)
    return review.changed(scans=scans, classes=plan.classes, plan=None)


def _are_enough(here: RoundContext, tasks: Iterable[int]) -> bool:
    groups = {here.ledger.groups[task] for task in tasks if task in here.ledger.usable}
    return len(groups) >= review_list.LEAST_GROUPS


def _may_go_on(here: RoundContext, plan: ReviewPlan) -> bool:
    """Return whether the classes are those of a plan, and enough of its scans are labelled."""
    return plan.classes == review_folds.classes(here) and _are_enough(here, chain(*plan.folds))


def _is_outdated(here: RoundContext, review: ReviewRecord) -> bool:
    """Return whether the classes or enough labels have changed, or the files are gone."""
    if review.classes != review_folds.classes(here):
        return True
    if not {scan.file for scan in review.scans} <= set(here.files.names(artifacts.REVIEWS)):
        return True
    now = here.ledger
    today = {(task, review_list.label_of(now, task)) for task in now.usable}
    changed = today ^ {(scan.task, scan.label) for scan in review.scans}
    return changed_labels.are_enough(len({task for task, _ in changed}), len(review.scans))


def _show(
    here: RoundContext, live: Publication, review: ReviewRecord, stop: Callable[[], bool]
) -> list[int]:
    """Publish the highest suspicions; return the tasks of which Label Studio holds one.

    A task that the live queue holds has a prediction of the live version already. It was labelled
    after that queue was made, and waits for the next one. Two predictions of one version on a task
    would corrupt Label Studio's order, should its annotation be deleted.

    Raises:
        Stopped: If `stop` returned True; what was published stays.
    """
    now, studio = here.ledger, here.services.studio
    closed = set(now.usable) - now.open - set(live.published)
    suspicious = review_list.suspicious(here.store, here.id, now, review)
    shown = list(islice((scan for scan in suspicious if scan.task in closed), MOST_SHOWN))
    if shown and not review.tab:
        review_tab.ensure(studio, here.id)
    regions = _regions(here, shown)
    rows = [QueueItem(scan.task, regions.get(scan.task, [])) for scan in shown]
    scores = {scan.task: scan.score for scan in shown}
    if not review_predictions.publish(studio, here.id, live.name, rows, scores, stop):
        raise Stopped
    return [scan.task for scan in shown]


def _regions(here: RoundContext, scans: Sequence[ReviewedScan]) -> dict[int, Regions]:
    tasks = [scan.task for scan in scans]
    regions: dict[int, Regions] = {}
    for name in {scan.file for scan in scans}:
        regions |= review_files.regions(here.files, name, tasks)
    return regions
