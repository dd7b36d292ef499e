"""The schema: made in an empty database, and brought up to date in one of an earlier release."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa

from backend.errors import ConfigError, StorageError
from backend.storage.database import Database, explained
from backend.storage.tables import WIPED, Base, Meta, Project

SCHEMA_VERSION = "1"
DOUBTED = 1.0  # the time at which a project vanished that an earlier release let go


def create(database: Database) -> None:
    """Make the tables, and the id by which this installation is told from others.

    Raises:
        StorageError: When the database was written by another schema.
    """
    try:
        with database.alone():
            new = not sa.inspect(database.engine).has_table(Meta.__tablename__)
            Base.metadata.create_all(database.engine)
            if Project.__table__.c.vanished_at in _add_columns(database.engine):
                _doubt_disconnections(database)
    except sa.exc.DatabaseError as error:
        raise explained(error) from error
    except OSError as error:
        raise StorageError(
            f"The database cannot be opened ({error.strerror}).", "Check DATA_DIR."
        ) from error
    database.once("installation", secrets.token_hex(4))
    if new:
        database.once(WIPED, "yes")
    found = database.once("schema", SCHEMA_VERSION)
    if found != SCHEMA_VERSION:
        raise ConfigError(
            f"The database has schema {found}, this release reads {SCHEMA_VERSION}.",
            "Use the release that wrote it, or start with an empty DATA_DIR.",
        )


def _doubt_disconnections(database: Database) -> None:
    """Ask Label Studio again about every project that an earlier release let go.

    That release took any answer of 404 for a disconnection, so nobody knows which were meant.
    """
    let_go = sa.update(Project).where(Project.disconnected)
    with database.session() as session:
        session.execute(let_go.values(disconnected=False, vanished_at=DOUBTED))


def _add_columns(engine: sa.Engine) -> list[sa.Column[Any]]:
    """Add and return the columns that databases of this schema were first written without.

    Such a column has a default of the database's own: rows from before it have to have a value.
    """
    added = _missing(engine)
    for column in added:
        definition = sa.schema.CreateColumn(column).compile(dialect=engine.dialect)
        add = sa.text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
        try:
            with engine.begin() as connection:
                connection.execute(add)
        except sa.exc.ProgrammingError:
            if column in _missing(engine):  # else the other process was faster
                raise
    return added


def _missing(engine: sa.Engine) -> list[sa.Column[Any]]:
    known = sa.inspect(engine)
    return [
        column
        for table in Base.metadata.sorted_tables
        for there in [{found["name"] for found in known.get_columns(table.name)}]
        for column in table.columns
        if column.name not in there
    ]
