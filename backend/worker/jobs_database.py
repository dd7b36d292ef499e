"""DBOS's database on SQLite: whether DBOS can work with it here, and a damaged file."""

from __future__ import annotations

import logging
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from backend.errors import ConfigError
from backend.storage.database import sqlite_path

log = logging.getLogger(__name__)

# From this Python on, DBOS dates its rows by unixepoch('subsec'); before it, by strftime('%s').
PYTHON_OF_SUBSECONDS = (3, 12)
# From this release on, SQLite knows 'subsec'. An earlier one answers NULL.
SQLITE_OF_SUBSECONDS = (3, 42)
PYTHON = sys.version_info[:2]
SQLITE = sqlite3.sqlite_version_info
NEWER = "a Python whose SQLite is 3.42 or later (Debian 13 and Ubuntu 24.04 have one)"


def require_known_time(url: str) -> None:
    """Require a SQLite that knows the time as DBOS asks for it; PostgreSQL always does.

    Args:
        url: The URL of DBOS's database.

    Raises:
        ConfigError: When DBOS would find no time to write, and so could not start.
    """
    path = sqlite_path(url)
    if path is None or SQLITE >= SQLITE_OF_SUBSECONDS:
        return
    here = f"Python {_dotted(PYTHON)} uses SQLite {_dotted(SQLITE)}"
    if PYTHON >= PYTHON_OF_SUBSECONDS:
        raise ConfigError(
            f"{here}, and from Python 3.12 on DBOS needs SQLite 3.42 or later.",
            f"Use {NEWER}, or Python 3.11, or PostgreSQL as DATABASE_URL.",
        )
    if _asks_for_subseconds(path):
        raise ConfigError(
            f"{here}, and {path} was made by Python 3.12 or later, so it needs SQLite 3.42.",
            f"Use {NEWER}, or move {path.name}* away: the worker makes a new file and checks every "
            "project anew.",
        )


def set_aside_if_damaged(url: str) -> None:
    """Rename a damaged file. Nothing is lost: every start refreshes all projects."""
    path = sqlite_path(url)
    if path is None or not path.exists() or _is_whole(path):
        return
    log.error("%s is damaged: it is renamed, and all projects are refreshed", path.name)
    for part in path.parent.glob(f"{path.name}*"):
        part.replace(part.with_name(f"damaged-{part.name}"))


def _asks_for_subseconds(path: Path) -> bool:
    """Return whether tables have columns that are dated so: they keep it under any Python."""
    if not path.exists():
        return False
    asking = "SELECT count(*) FROM sqlite_master WHERE sql LIKE '%unixepoch(''subsec'')%'"
    try:
        with closing(sqlite3.connect(path)) as connection:
            return bool(connection.execute(asking).fetchone()[0])
    except sqlite3.DatabaseError:
        return False  # locked or damaged: the start of DBOS deals with that


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as connection:
            return bool(connection.execute("PRAGMA quick_check").fetchone() == ("ok",))
    except sqlite3.OperationalError:
        return True  # locked or unreadable: DBOS reports that when it opens the file
    except sqlite3.DatabaseError:
        return False


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
