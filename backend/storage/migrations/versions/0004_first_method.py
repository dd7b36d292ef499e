"""The method that a project was registered with."""

from __future__ import annotations

import sqlalchemy as sa

from backend.storage.migrations import add_missing

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the new column. Projects of earlier releases keep the method of those releases."""
    add_missing(
        "projects",
        sa.Column("first_method", sa.String, nullable=False, server_default="firstlight-1"),
    )
