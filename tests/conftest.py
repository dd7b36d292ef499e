from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import postgresql

LOCAL = "local"

# How long an example takes is the machine's affair: nothing here fails by the clock.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")


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
