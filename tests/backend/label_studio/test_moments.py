from __future__ import annotations

import pytest

from backend.label_studio import moments


@pytest.mark.parametrize(
    "moment",
    ["2026-11-23T10:00:05.000000Z", "2026-11-23T12:00:05+02:00", "2026-11-23T10:00:05.000Z"],
)
def test_a_moment_is_asked_for_in_label_studios_own_notation(moment: str) -> None:
    assert moments.shortly_before(moment) == "2026-11-23T10:00:00.000000Z"
