"""The same small worlds as the tests of the service use."""

from __future__ import annotations

from tests.backend.conftest import (
    _loggers,
    clock,
    database_url,
    decoders,
    empty_database,
    empty_jobs,
    fake,
    jobs,
    project_id,
    services,
    settings,
    site,
    store,
    studio,
)

__all__ = [
    "_loggers",
    "clock",
    "database_url",
    "decoders",
    "empty_database",
    "empty_jobs",
    "fake",
    "jobs",
    "project_id",
    "services",
    "settings",
    "site",
    "store",
    "studio",
]
