"""What studies in idle time found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import has_table

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the table of the studies' results."""
    if not has_table("study_results"):
        op.create_table(
            "study_results",
            sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.String, primary_key=True),
            sa.Column("digest", sa.String, nullable=False),
            sa.Column("record", sa.JSON, nullable=False),
        )
