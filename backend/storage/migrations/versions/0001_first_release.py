"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.storage.migrations import has_table

revision = "0001"
down_revision = None

TABLES: dict[str, tuple[sa.schema.SchemaItem, ...]] = {
    "meta": (
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    ),
    "projects": (
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("full_sync", sa.Boolean, nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("hostname", sa.String, nullable=False),
        sa.Column("label_config", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("seen", sa.JSON, nullable=False),
        sa.Column("full_synced_at", sa.Double, nullable=False),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("live_version", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("step_at", sa.Double, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("options_problem", sa.String, nullable=False),
        sa.Column("problem", sa.String, nullable=False),
        sa.Column("mend", sa.String, nullable=False),
        sa.Column("problem_at", sa.Double, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("publish_seconds", sa.Double, nullable=False),
    ),
    "tasks": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("group", sa.String, nullable=False),
        sa.Column("updated_at", sa.String, nullable=False),
        sa.Column("is_labeled", sa.Boolean, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("pixels", sa.String, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("retry_at", sa.Double, nullable=False),
        sa.Column("pause", sa.Double, nullable=False, server_default="0"),
    ),
    "annotations": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("task_id", sa.Integer, nullable=False, index=True),
        sa.Column("updated_at", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("cancelled", sa.Boolean, nullable=False),
        sa.Column("ground_truth", sa.Boolean, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
    ),
    "embeddings": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("encoder", sa.String, primary_key=True),
        sa.Column("task_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chunk", sa.String, nullable=False),
        sa.Column("row", sa.Integer, nullable=False),
    ),
    "splits": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("task_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("validation", sa.Boolean, nullable=False),
    ),
    "draft_scores": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("task_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("dice", sa.Double, nullable=False),
    ),
    "models": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("labels", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("classes", sa.JSON, nullable=False),
        sa.Column("trained_on", sa.JSON, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("quality", sa.JSON, nullable=False),
    ),
    "versions": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("model_key", sa.String, nullable=False),
        sa.Column("labels", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("published", sa.JSON, nullable=False),
        sa.Column("drafts", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("live_at", sa.Double, nullable=False),
    ),
    "rounds": (
        sa.Column("project_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("workflow", sa.String, nullable=False, unique=True),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
    ),
}


def upgrade() -> None:
    """Make the tables that do not exist yet."""
    for name, items in TABLES.items():
        if not has_table(name):
            op.create_table(name, *items)
