from __future__ import annotations

from collections.abc import Iterator

import pytest

from model import clustering


@pytest.fixture(scope="module")
def few_nulls() -> Iterator[None]:
    """Two clusterings of uniform points instead of twenty, for tests of something else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, "NULLS", 2)
        yield
