"""The source of each scan (hospital, scanner, view)."""

from __future__ import annotations

import sqlalchemy as sa

from backend.storage.migrations import add_missing

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the new column."""
    add_missing("tasks", sa.Column("source", sa.String, nullable=False, server_default=""))
