"""The schema: made in an empty database, and brought up to date in one of an earlier release."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from backend.errors import ConfigError, StorageError
from backend.storage.database import Database, explained
from backend.storage.tables import WIPED, Meta

SCHEMA_VERSION = "1"  # of databases that this release and its neighbours read alike
MIGRATIONS = "backend.storage:migrations"
FIRST = "0001"  # the tables of the first release, which knew nothing of migrations
REVISIONS = "alembic_version"  # the table in which Alembic notes how far a database is
DOUBTED = 1.0  # the time at which a project vanished that an earlier release let go


def create(database: Database) -> None:
    """Make the tables, and the id by which this installation is told from others.

    Raises:
        ConfigError: When a later release, or another schema, wrote the database.
        StorageError: When the database does not answer.
    """
    try:
        with database.alone():
            new = not sa.inspect(database.engine).has_table(Meta.__tablename__)
            _migrate(database.engine)
    except sa.exc.DatabaseError as error:
        raise explained(error) from error
    except OSError as error:
        raise StorageError(
            f"The database cannot be opened ({error.strerror}).", "Check DATA_DIR."
        ) from error
    database.once("installation", secrets.token_hex(4))
    if new:
        database.once(WIPED, "yes")
    _check_version(database.once("schema", SCHEMA_VERSION))


def _migrate(engine: sa.Engine) -> None:
    """Run the migrations that this database has not seen."""
    with engine.begin() as connection:
        known = sa.inspect(connection)
        config = Config()
        config.set_main_option("script_location", MIGRATIONS)
        config.attributes["connection"] = connection
        if known.has_table(Meta.__tablename__) and not known.has_table(REVISIONS):
            command.stamp(config, FIRST)
        try:
            command.upgrade(config, "head")
        except CommandError:  # it knows no such revision
            raise ConfigError(
                "A later release of Firstlight wrote the database.",
                "Use that release, or put a backup from before its upgrade back.",
            ) from None


def _check_version(found: str) -> None:
    if found != SCHEMA_VERSION:
        raise ConfigError(
            f"The database has schema {found}, this release reads {SCHEMA_VERSION}.",
            "Use the release that wrote it, or start with an empty DATA_DIR.",
        )
