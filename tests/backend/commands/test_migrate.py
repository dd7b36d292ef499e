"""The command `migrate` makes the tables, needs no token, and refuses a later release's."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from backend.storage.store import open_known
from tests.backend.commands.test_cli import refused, run


def test_the_tables_are_made_once_and_then_left_alone(tmp_path: Path) -> None:
    for _ in range(2):
        done = run("migrate", DATA_DIR=str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "The tables of the database are those of this release.\n"
    store = open_known(f"sqlite:///{tmp_path / 'firstlight.sqlite'}")
    assert store.projects.all() == []
    store.close()


def test_the_database_of_a_later_release_is_refused(tmp_path: Path) -> None:
    run("migrate", DATA_DIR=str(tmp_path))
    store = open_known(f"sqlite:///{tmp_path / 'firstlight.sqlite'}")
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    assert "A later release of Firstlight wrote" in refused("migrate", DATA_DIR=str(tmp_path))
