from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from dbos import _migration

from backend.errors import ConfigError
from backend.worker import jobs_database

OLD, NEW = (3, 40, 1), (3, 42, 0)


def pretend(
    monkeypatch: pytest.MonkeyPatch, python: tuple[int, int], sqlite: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(jobs_database, "PYTHON", python)
    monkeypatch.setattr(jobs_database, "SQLITE", sqlite)


def made(folder: Path, time: str) -> str:
    """Make a table whose rows are dated by this expression; return the database's URL."""
    path = folder / "dbos.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE jobs (at INTEGER NOT NULL DEFAULT {time})")
    return f"sqlite:///{path}"


def dbos_time(monkeypatch: pytest.MonkeyPatch, python: tuple[int, int]) -> str:
    """Return how DBOS dates its rows under this Python."""
    with monkeypatch.context() as other:
        other.setattr(_migration, "sys", SimpleNamespace(version_info=python))
        return _migration.get_sqlite_timestamp_expr()


@pytest.mark.parametrize("python", [(3, 12), (3, 13)])
def test_python_and_sqlite_that_cannot_work_are_named_with_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: tuple[int, int]
) -> None:
    pretend(monkeypatch, python, OLD)
    with pytest.raises(ConfigError) as caught:
        jobs_database.require_known_time(f"sqlite:///{tmp_path / 'dbos.sqlite'}")
    assert caught.value.what == (
        f"Python 3.{python[1]} uses SQLite 3.40.1, and from Python 3.12 on DBOS needs SQLite 3.42 "
        "or later."
    )
    for way_out in ("SQLite is 3.42", "Python 3.11", "PostgreSQL as DATABASE_URL"):
        assert way_out in caught.value.fix
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("python", "sqlite"), [((3, 11), OLD), ((3, 12), NEW), ((3, 13), (3, 46, 1)), ((3, 11), NEW)]
)
def test_python_and_sqlite_that_can_work_pass(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    python: tuple[int, int],
    sqlite: tuple[int, int, int],
) -> None:
    pretend(monkeypatch, python, sqlite)
    jobs_database.require_known_time(f"sqlite:///{tmp_path / 'dbos.sqlite'}")
    jobs_database.require_known_time(made(tmp_path, dbos_time(monkeypatch, python)))


def test_on_postgresql_no_sqlite_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, (3, 13), OLD)
    jobs_database.require_known_time("postgresql+psycopg://db/firstlight")


def test_a_file_of_a_later_python_is_named_where_sqlite_is_too_old_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = made(tmp_path, dbos_time(monkeypatch, (3, 12)))
    pretend(monkeypatch, (3, 11), OLD)
    with pytest.raises(ConfigError, match=r"dbos\.sqlite was made by Python 3\.12") as caught:
        jobs_database.require_known_time(url)
    assert "move dbos.sqlite* away" in caught.value.fix


def test_a_file_that_cannot_be_read_is_left_to_dbos(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, (3, 11), OLD)
    path = tmp_path / "dbos.sqlite"
    path.write_bytes(b"no database" * 100)
    jobs_database.require_known_time(f"sqlite:///{path}")


@pytest.mark.parametrize("python", [(3, 11), (3, 12), (3, 13)])
def test_dbos_asks_for_subseconds_from_the_python_on_that_is_named(
    monkeypatch: pytest.MonkeyPatch, python: tuple[int, int]
) -> None:
    asks = "unixepoch('subsec')" in dbos_time(monkeypatch, python)
    assert asks == (python >= jobs_database.PYTHON_OF_SUBSECONDS)


def test_sqlite_knows_subseconds_from_the_release_on_that_is_named() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        [time] = connection.execute("SELECT unixepoch('subsec')").fetchone()
    assert (time is not None) == (jobs_database.SQLITE >= jobs_database.SQLITE_OF_SUBSECONDS)
