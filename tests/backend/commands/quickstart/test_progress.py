from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace

import pytest

from backend.commands.quickstart import progress
from backend.commands.quickstart.progress import Pace
from backend.commands.quickstart.service import UNKNOWN
from tests.backend.conftest import Clock


def test_the_pace_counts_from_the_first_scan_to_the_last_chunk(clock: Clock) -> None:
    pace = Pace(clock)
    assert (pace.done(UNKNOWN, 100), pace.words(UNKNOWN, 100)) == (0, "waiting for the worker")
    clock.advance(50)
    begun = replace(UNKNOWN, step="embed", embedded=0)
    assert (pace.done(begun, 100), pace.words(begun, 100)) == (0, "embedding")
    clock.advance(10)
    chunk = replace(UNKNOWN, step="embed", embedded=40)
    assert pace.done(chunk, 100) == 40
    assert pace.words(chunk, 100) == "embedding, 4.0 scans/s, 15 s left"
    clock.advance(5)
    assert pace.done(chunk, 100) == 40
    assert pace.words(chunk, 100) == "embedding, 4.0 scans/s, 10 s left"
    after = replace(UNKNOWN, step="publish")
    assert pace.done(after, 100) == 100
    assert pace.words(after, 100) == "sending the queue to Label Studio"
    assert pace.words(replace(UNKNOWN, live_version="cold start"), 100) == "ready"


def test_without_a_terminal_a_wait_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.waiting("Starting"):
        pass
    with progress.counting("Importing", 3, "scans") as advance:
        advance(1)
        advance(2)
    with progress.ordering("Ordering", 3) as show:
        show(UNKNOWN)
        show(replace(UNKNOWN, step="embed", embedded=3))
    assert capsys.readouterr().out.split() == ["Starting", "Importing", "Ordering"]


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_on_a_terminal_the_bar_of_a_wait_is_full_unless_it_failed(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    with suppress(ValueError), progress.waiting("Starting"):
        if error:
            raise error
    last = terminal.getvalue().split("\r")[-1]
    assert ("[" + 36 * "#" + "]  0 s" in last) is (error is None)


def test_an_error_ends_a_wait(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), progress.waiting("Starting"):
        raise ValueError("no")
