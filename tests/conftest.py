from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import postgresql

LOCAL = "local"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgresql",
        default="",
        help="address of a server on which every test of the service gets a database of its own, "
        "instead of SQLite: postgresql+psycopg://user:password@host/postgres, or `local` for one "
        "that the run starts itself",
    )


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The server that was named, else one of the run's own."""
    named = request.config.getoption("--postgresql")
    if named not in {"", LOCAL}:
        yield named
        return
    with postgresql.running() as url:
        yield url
