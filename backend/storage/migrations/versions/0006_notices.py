"""The events that people were told about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import has_table

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the new table."""
    if not has_table("notices"):
        op.create_table(
            "notices",
            sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("kind", sa.String, primary_key=True),
            sa.Column("since", sa.Double, nullable=False),
            sa.Column("tries", sa.Integer, nullable=False),
            sa.Column("next_try_at", sa.Double, nullable=False),
            sa.Column("sent", sa.Boolean, nullable=False),
        )
