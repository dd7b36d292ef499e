"""The annotator, time and origin of every label, and the figures that are made of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import add_missing, has_table

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the new columns and tables."""
    add_missing(
        "annotations",
        sa.Column("annotator", sa.Integer, nullable=False, server_default="0"),
        sa.Column("seconds", sa.Double),
        sa.Column("area", sa.Double, nullable=False, server_default="0"),
        sa.Column("kept", sa.Integer, nullable=False, server_default="0"),
        sa.Column("changed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("manual", sa.Integer, nullable=False, server_default="0"),
    )
    add_missing("tasks", sa.Column("overlap", sa.Integer, nullable=False, server_default="1"))
    if not has_table("annotators"):
        op.create_table(
            "annotators",
            sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("number", sa.Integer, nullable=False),
        )
    if not has_table("mask_comparisons"):
        op.create_table(
            "mask_comparisons",
            sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("first", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("second", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("task_id", sa.Integer, nullable=False),
            sa.Column("key", sa.String, nullable=False),
            sa.Column("scores", sa.JSON, nullable=False),
        )
    if not has_table("label_figures"):
        op.create_table(
            "label_figures",
            sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("digest", sa.String, nullable=False),
            sa.Column("record", sa.JSON, nullable=False),
        )
