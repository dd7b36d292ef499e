from __future__ import annotations

import json
import logging
import sys

import pytest

from backend import logs

PATIENT = "patient Smith"


def record(message: str, *args: object, error: bool = False) -> logging.LogRecord:
    caught = sys.exc_info() if error else None
    return logging.LogRecord("backend.test", logging.WARNING, "", 0, message, args, caught)


def formatted(found: logging.LogRecord) -> dict[str, object]:
    line = logs.JsonFormatter().format(found)
    assert "\n" not in line
    parsed: dict[str, object] = json.loads(line)
    return parsed


def test_a_record_is_one_line_of_json() -> None:
    line = formatted(record("%d scans\nof %s", 3, "Größe"))
    assert line["message"] == "3 scans\nof Größe"
    assert (line["level"], line["logger"]) == ("warning", "backend.test")
    assert str(line["time"]).endswith("+00:00")


def test_context_is_added_inside_and_gone_outside() -> None:
    with logs.context(project=3):
        with logs.context(round=7):
            inside = formatted(record("x"))
        between = formatted(record("x"))
    assert (inside["project"], inside["round"]) == (3, 7)
    assert "round" not in between
    assert "project" not in formatted(record("x"))


def test_context_ends_when_an_error_leaves_it() -> None:
    with pytest.raises(ValueError, match="no"), logs.context(project=3):
        raise ValueError("no")
    assert "project" not in formatted(record("x"))


def test_an_error_takes_the_context_it_was_raised_in_along() -> None:
    try:
        with logs.context(project=3), logs.context(round=7):
            raise ValueError("no")
    except ValueError as error:
        caught = logs.ids_of(error)
        with logs.context(project=3):
            line = formatted(record("a round failed", error=True))
    assert caught == {"project": 3, "round": 7}
    assert (line["project"], line["round"]) == (3, 7)
    assert logs.ids_of(ValueError("of no context")) == {}


def test_an_exception_brings_where_and_what_kind_but_not_its_message() -> None:
    try:
        raise ValueError(PATIENT)
    except ValueError:
        line = formatted(record("failed", error=True))
    assert "test_logs.py" in str(line["exception"])
    assert str(line["exception"]).endswith("ValueError")
    assert PATIENT not in json.dumps(line)


def test_own_loggers_speak_and_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logging.getLogger("backend.rounds.workflow").info("a round began")
    logging.getLogger("httpx").info("GET http://label-studio/?token=hunter2")
    logging.getLogger("httpx").warning("slow")
    messages = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert messages == ["a round began", "slow"]


def test_what_a_loop_meets_again_and_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    say = logs.Once(logging.getLogger("backend.test"))
    for problem in ("down", "down", "", "down", "full", "full"):
        say(problem)
    assert caplog.messages == ["down", "down", "full"]
