from __future__ import annotations

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from backend.errors import reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("hunter2"), "no connection: nothing listens there"),
        (httpx.ConnectTimeout("hunter2"), "it took too long"),
        (httpx.ReadError("hunter2"), "the connection broke off"),
        (httpx.RemoteProtocolError("hunter2"), "the connection broke off"),
        (OperationalError("hunter2", {}, Exception()), "it cannot be reached, opened or written"),
        (KeyError("hunter2"), "KeyError"),
    ],
)
def test_a_failed_call_is_told_in_words_and_never_by_its_own_text(
    error: Exception, said: str
) -> None:
    assert reason(error).startswith(said)
    assert "hunter2" not in reason(error)
