from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.storage.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database with project 3, of which nothing is known yet."""
    store = open_store(f"sqlite:///{tmp_path / 'memory.sqlite'}")
    store.create()
    store.projects.request_refresh(3)
    yield store
    store.close()
