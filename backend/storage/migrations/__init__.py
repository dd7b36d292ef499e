"""How the tables of each release became those of the next: Alembic runs what lies in `versions`.

A change of `backend.storage.tables` needs a new file there, named by the next number. It must do
nothing where its work is done already: SQLite keeps the first half of a migration whose second half
was cut off.
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
    """Return whether there is such a table."""
    return sa.inspect(op.get_bind()).has_table(name)
