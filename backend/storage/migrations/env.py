"""Alembic's entry point: it runs the migrations on the connection of `backend.storage.schema`."""

from __future__ import annotations

from alembic import context

from backend.storage.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
