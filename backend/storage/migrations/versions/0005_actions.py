"""What people asked for, and who did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import has_table

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the new table."""
    if not has_table("actions"):
        op.create_table(
            "actions",
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("project_id", sa.Integer, nullable=False, index=True),
            sa.Column("at", sa.Double, nullable=False),
            sa.Column("name", sa.String, nullable=False),
            sa.Column("version", sa.String, nullable=False),
            sa.Column("origin", sa.String, nullable=False),
            sa.Column("person", sa.String, nullable=False),
        )
