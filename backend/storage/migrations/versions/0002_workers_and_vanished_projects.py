"""Workers, erasures, vanished projects, and columns for draft quality and refused events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import add_missing, has_table

revision = "0002"
down_revision = "0001"

DOUBTED = 1.0  # `vanished_at` of projects that an earlier release disconnected on a 404


def upgrade() -> None:
    """Make the new tables and columns."""
    _make_tables()
    added = add_missing(
        "projects",
        sa.Column("waits_since", sa.Double, nullable=False, server_default="0"),
        sa.Column("full_wanted", sa.Integer, nullable=False, server_default="0"),
        sa.Column("train_wanted", sa.Integer, nullable=False, server_default="0"),
        sa.Column("vanished_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("draft_dice", sa.Double),
        sa.Column("unchanged_drafts", sa.Double),
        sa.Column("changed_draft_dice", sa.Double),
        sa.Column("webhook_refused_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.Column("storage_away_since", sa.Double, nullable=False, server_default="0"),
    )
    add_missing(
        "tasks",
        sa.Column("read_by", sa.String, nullable=False, server_default=""),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
    )
    if "vanished_at" in added:
        _doubt_disconnections()


def _make_tables() -> None:
    if not has_table("workers"):
        op.create_table(
            "workers",
            sa.Column("name", sa.String, primary_key=True),
            sa.Column("host", sa.String, nullable=False),
            sa.Column("release", sa.String, nullable=False),
            sa.Column("started_at", sa.Double, nullable=False),
            sa.Column("beat_at", sa.Double, nullable=False),
            sa.Column("beats", sa.Integer, nullable=False),
        )
    if not has_table("sightings"):
        op.create_table(
            "sightings",
            sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("at", sa.Double, nullable=False),
        )
    if not has_table("erasures"):
        op.create_table(
            "erasures",
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("project_id", sa.Integer, nullable=False),
            sa.Column("whole", sa.Boolean, nullable=False),
            sa.Column("task_ids", sa.JSON, nullable=False),
            sa.Column("chunks", sa.JSON, nullable=False),
            sa.Column("files_done", sa.Boolean, nullable=False),
            sa.Column("database_done", sa.Boolean, nullable=False),
        )


def _doubt_disconnections() -> None:
    """Turn disconnected projects into vanished ones, so that Label Studio is asked again.

    The earlier release disconnected a project on any 404. Which projects a person disconnected is
    unknown.
    """
    projects = sa.table(
        "projects", sa.column("gone", sa.Boolean), sa.column("vanished_at", sa.Double)
    )
    let_go = sa.update(projects).where(projects.c.gone)
    op.execute(let_go.values(gone=False, vanished_at=DOUBTED))
