"""Migrations of the tables from each release to the next: Alembic runs the files in `versions`.

A change of `backend.storage.tables` needs a new file there, named by the next number. Each of its
steps must do nothing if it was done before: after a kill, SQLite keeps the first half of a
migration.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def add_missing(table: str, *columns: sa.Column[object]) -> list[str]:
    """Add the columns that a table lacks; return their names."""
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    lacking = [column for column in columns if column.name not in known]
    for column in lacking:
        op.add_column(table, column)
    return [column.name for column in lacking]


def has_table(name: str) -> bool:
    """Return whether a table exists."""
    return sa.inspect(op.get_bind()).has_table(name)
