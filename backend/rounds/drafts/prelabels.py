"""Which projects show drafts, and from which model: read from the database, no model loaded."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from backend.errors import UnsupportedLabelConfig
from backend.label_studio import labels
from backend.storage.ledger import stored_options
from backend.storage.store import Store
from backend.storage.tables import DraftScore, Project, Publication

KEPT_MODELS = 2  # networks that the process of the live drafts holds in memory
JUDGED = 5  # the last drafts that decide whether the next ones are shown


def wanted(project: Project, usable: int, dice: list[float]) -> bool:
    """Return whether drafts are shown: enough labels, and the last drafts were good enough.

    Args:
        project: Its options set the least number of labels and the least Dice.
        usable: Number of labelled scans.
        dice: Dice of each draft against the submitted annotation, oldest first.
    """
    options = stored_options(project)
    if not options.prelabels or usable < options.prelabel_after:
        return False
    last = dice[-JUDGED:]
    return len(last) < JUDGED or sum(last) / JUDGED >= options.prelabel_min_dice


def live_with_drafts(store: Store, project: Project) -> Publication | None:
    """Return the live publication of a project if its model draws drafts now, else None.

    There are no drafts during the cold start, while drafts are not shown, and after the classes of
    the project have changed.
    """
    version = store.publications.get(project.id, project.live_version)
    model = store.publications.model(project.id, version.model_key) if version else None
    if version is None or model is None or model.classes != _classes(project):
        return None
    return version if wanted(project, version.labels, _last_dice(store, project.id)) else None


def newest_with_drafts(store: Store) -> Iterator[tuple[int, str]]:
    """Yield (project id, name of the live publication) where drafts are shown, newest first.

    Raises:
        StorageError: When the database does not answer.
    """
    query = (
        sa.select(Project)
        .join(
            Publication,
            sa.and_(Publication.project_id == Project.id, Publication.name == Project.live_version),
        )
        .where(Publication.model_key != "", ~Project.disconnected)
        .order_by(Publication.live_at.desc())
    )
    with store.session() as session:
        projects = list(session.scalars(query))
    return (
        (project.id, project.live_version)
        for project in projects
        if live_with_drafts(store, project)
    )


def _classes(project: Project) -> list[str]:
    try:
        return list(labels.parse(project.label_config).labels)
    except UnsupportedLabelConfig:
        return []


def _last_dice(store: Store, project_id: int) -> list[float]:
    """Return the Dice of the last drafts only: a large project has as many scores as labels."""
    query = (
        sa.select(DraftScore.dice)
        .where(DraftScore.project_id == project_id)
        .order_by(DraftScore.created_at.desc())
        .limit(JUDGED)
    )
    with store.session() as session:
        return list(session.scalars(query))[::-1]
