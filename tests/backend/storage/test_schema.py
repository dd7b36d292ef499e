"""The migrations make the tables that the code declares, from every release's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from backend.errors import ConfigError
from backend.options import FIRSTLIGHT, FIRSTLIGHT_1
from backend.storage.ledger import stored_options
from backend.storage.schema import DOUBTED, REVISIONS
from backend.storage.store import Store, open_store
from backend.storage.tables import Base

pytestmark = pytest.mark.databases

SAMPLE = Path(__file__).parents[2] / "upgrade" / "schema-1" / "firstlight.sql"


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Store]:
    """The database of the first release, not yet brought up to date."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(SAMPLE.read_text())
    store = open_store(f"sqlite:///{path}")
    yield store
    store.close()


def differences(store: Store) -> list[object]:
    """Return how the tables differ from what the code declares."""
    with store.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    return [one for one in found if REVISIONS not in str(one)]


def test_an_empty_database_gets_the_tables_that_the_code_declares(store: Store) -> None:
    assert differences(store) == []


def test_a_database_of_the_first_release_gets_them_too(old: Store) -> None:
    assert differences(old), "the sample is of an earlier release"
    old.create()
    assert differences(old) == []


def test_a_migration_that_was_cut_off_half_way_is_finished(old: Store) -> None:
    with old.engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE sightings"
                " (project_id INTEGER NOT NULL PRIMARY KEY, at DOUBLE NOT NULL)"
            )
        )
        connection.execute(
            sa.text("ALTER TABLE tasks ADD COLUMN deaths INTEGER DEFAULT '0' NOT NULL")
        )
    old.create()
    assert differences(old) == []


def test_projects_that_the_first_release_let_go_are_asked_for_again(old: Store) -> None:
    with old.engine.begin() as connection:
        connection.execute(sa.text("UPDATE projects SET gone = true"))
    old.create()
    assert [(one.disconnected, one.vanished_at) for one in old.projects.all()] == [(False, DOUBTED)]
    old.projects.update(old.projects.all()[0].id, disconnected=True)
    old.create()
    assert [one.disconnected for one in old.projects.all()] == [True], "once, at the upgrade"


def test_projects_of_earlier_releases_keep_their_method_and_new_ones_get_todays(
    old: Store,
) -> None:
    old.create()
    [known] = old.projects.all()
    assert known.first_method == FIRSTLIGHT_1
    # What holds while the options in Label Studio are wrong.
    assert stored_options(known).method == FIRSTLIGHT_1
    assert stored_options(known).encoder_of("auto") == "auto"
    old.projects.request_refresh(77)
    new = old.projects.get(77)
    assert new is not None
    assert new.first_method == FIRSTLIGHT


def test_a_database_of_a_later_release_is_refused(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="later release"):
        store.create()
