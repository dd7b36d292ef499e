from __future__ import annotations

import os

import pytest

from bench.round_steps import in_another_process


def test_nothing_is_measured_without_a_pool() -> None:
    in_another_process(os._exit, 0)
    with pytest.raises(SystemExit, match="ended with code 3, not 0"):
        in_another_process(os._exit, 3)
