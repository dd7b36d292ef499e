"""The place of each slice in its volume."""

from __future__ import annotations

import sqlalchemy as sa

from backend.storage.migrations import add_missing

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the new column."""
    add_missing("tasks", sa.Column("place", sa.Double))
