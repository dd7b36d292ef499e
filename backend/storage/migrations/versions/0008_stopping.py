"""Since when labelling can stop, and how much of each draft was changed."""

from __future__ import annotations

import sqlalchemy as sa

from backend.storage.migrations import add_missing

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the new columns."""
    add_missing(
        "projects", sa.Column("can_stop_since", sa.Double, nullable=False, server_default="0")
    )
    add_missing(
        "draft_scores",
        sa.Column("control", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("pixels", sa.JSON, nullable=False, server_default="{}"),
    )
