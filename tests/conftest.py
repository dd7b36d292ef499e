from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgresql",
        default="",
        help="address of a server on which every test of the service gets a database of its own, "
        "instead of SQLite: postgresql+psycopg://user:password@host/postgres",
    )
