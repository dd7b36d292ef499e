"""The schema: create it in an empty database, or migrate the one of an earlier release."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from backend.errors import ConfigError, StorageError
from backend.storage.database import Database, explained
from backend.storage.tables import WIPED, Meta

SCHEMA_VERSION = "1"  # releases with the same number can read each other's databases
MIGRATIONS = "backend.storage:migrations"
FIRST = "0001"  # the tables of the first release, which had no migrations
REVISIONS = "alembic_version"  # the table in which Alembic notes the migrations that were run
DOUBTED = 1.0  # `vanished_at` of projects that an earlier release disconnected on a 404


def create(database: Database) -> None:
    """Make or migrate the tables, and store the id of this installation.

    Raises:
        ConfigError: When a later release or another schema version wrote the database.
        StorageError: When the database does not answer.
    """
    try:
        with database.alone():
            new = _migrate(database.engine)
    except sa.exc.DatabaseError as error:
        raise explained(error) from error
    except OSError as error:
        raise StorageError(
            f"The database cannot be opened ({error.strerror}).",
            "Let this user read and write DATA_DIR and the files in it.",
        ) from error
    database.once("installation", secrets.token_hex(4))
    if new:
        database.once(WIPED, "yes")
    _check_version(database.once("schema", SCHEMA_VERSION))


def _migrate(engine: sa.Engine) -> bool:
    """Run the migrations that this database lacks; return whether it was empty."""
    # The process that draws live drafts opens the store without this, and must start quickly.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    with engine.begin() as connection:
        known = sa.inspect(connection)
        config = Config()
        config.set_main_option("script_location", MIGRATIONS)
        config.attributes["connection"] = connection
        empty = not known.has_table(Meta.__tablename__)
        if not empty and not known.has_table(REVISIONS):
            command.stamp(config, FIRST)
        try:
            command.upgrade(config, "head")
        except CommandError:  # Alembic does not know the database's revision
            raise ConfigError(
                "A later release of Firstlight wrote the database.",
                "Use that release, or restore a backup from before its upgrade.",
            ) from None
    return empty


def _check_version(version: str) -> None:
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"The database has schema {version}, this release reads {SCHEMA_VERSION}.",
            "Use the release that wrote it, or start with an empty DATA_DIR.",
        )
