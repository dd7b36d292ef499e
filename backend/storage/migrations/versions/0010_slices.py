"""The place of each slice in its volume, and the scores of drafts between two labelled slices."""

from __future__ import annotations

import sqlalchemy as sa

from backend.storage.migrations import add_missing

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the new columns."""
    add_missing("tasks", sa.Column("place", sa.Double))
    add_missing("draft_scores", sa.Column("gap", sa.Double), sa.Column("between_dice", sa.Double))
