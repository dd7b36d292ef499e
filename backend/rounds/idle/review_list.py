"""Which labels are under suspicion today, read from the database without a network."""

from __future__ import annotations

from backend.storage import artifacts
from backend.storage.ledger import Ledger
from backend.storage.records import REVIEW, ReviewedScan, ReviewRecord
from backend.storage.store import Store

LEAST_GROUPS = 20  # labelled; networks of fewer disagree with most labels


def read(store: Store, project_id: int) -> ReviewRecord:
    """Return the last review of a project's labels, empty before the first."""
    return ReviewRecord.model_validate(store.studies.record(project_id, REVIEW))


def is_unreadable(store: Store, project_id: int) -> bool:
    """Return whether the last review is of an early release, whose files cannot be read any more.

    The record is not validated, since the worker asks this every few seconds.
    """
    return store.studies.record(project_id, REVIEW).get("published") is not None


def label_of(now: Ledger, task_id: int) -> str:
    """Return a digest of a scan's label, "" without one; a corrected label has another one."""
    return artifacts.digest(now.keys_of(task_id)) if task_id in now.usable else ""


def under_suspicion(store: Store, project_id: int, now: Ledger) -> list[ReviewedScan]:
    """Return the reviewed scans whose label is still suspicious, the most suspicious first."""
    return suspicious(store, project_id, now, read(store, project_id))


def suspicious(
    store: Store, project_id: int, now: Ledger, review: ReviewRecord
) -> list[ReviewedScan]:
    """Return the scans of a review, the most suspicious first.

    Those whose label was corrected or deleted since the review are left out, and so are those
    whose label a person confirmed.
    """
    confirmed = store.publications.confirmed(project_id)
    return [
        scan
        for scan in review.scans
        if label_of(now, scan.task) == scan.label and (scan.task, scan.label) not in confirmed
    ]


def published(store: Store, project_id: int, version: str) -> int:
    """Return how many predictions of a version in Label Studio are suspicions about labels."""
    if store.studies.digest(project_id, REVIEW) != version:
        return 0
    review = read(store, project_id)
    return len(review.shown) if review.published is None else review.published


def forget_tab(store: Store, project_id: int) -> None:
    """Let the next review make the tab, because it was removed with the project's connection."""
    review, version = read(store, project_id), store.studies.digest(project_id, REVIEW)
    if review.tab:
        store.studies.save(project_id, REVIEW, version, review.changed(tab=False).written())
