"""The method that a project was registered with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import add_missing

revision = "0004"
down_revision = "0003"


PROJECTS = sa.table("projects", sa.column("id", sa.Integer), sa.column("options", sa.JSON))


def upgrade() -> None:
    """Make the new column. Projects of earlier releases keep the method of those releases.

    Their stored options say so too: they hold while the options in Label Studio are wrong.
    """
    add_missing(
        "projects",
        sa.Column("first_method", sa.String, nullable=False, server_default="firstlight-1"),
    )
    database = op.get_bind()
    for row in database.execute(sa.select(PROJECTS)).all():
        if row.options and row.options.get("method", "firstlight") == "firstlight":
            kept = {**row.options, "method": "firstlight-1"}
            statement = sa.update(PROJECTS).where(PROJECTS.c.id == row.id).values(options=kept)
            database.execute(statement)
