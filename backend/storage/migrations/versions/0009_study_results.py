"""What studies found out in idle time, and the labels that people confirmed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import add_missing, has_table

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the new table and columns."""
    if not has_table("study_results"):
        op.create_table(
            "study_results",
            sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.String, primary_key=True),
            sa.Column("digest", sa.String, nullable=False),
            sa.Column("record", sa.JSON, nullable=False),
        )
    add_missing(
        "actions",
        sa.Column("task_id", sa.Integer, nullable=False, server_default="0"),
        sa.Column("label", sa.String, nullable=False, server_default=""),
    )
