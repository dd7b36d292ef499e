"""Structured logs: one JSON object a line, free of secrets, bodies and patient data."""

from __future__ import annotations

import contextvars
import json
import logging
import logging.config
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

_IDS = "log_context"  # the attribute in which an error carries the fields of its context
_context: contextvars.ContextVar[dict[str, object] | None] = contextvars.ContextVar(
    "log_context", default=None
)


@contextmanager
def context(**fields: object) -> Iterator[None]:
    """Add fields (project, round, task, request) to every record logged inside.

    An error raised inside carries the fields along, so that a handler outside can log them.
    """
    inside = {**(_context.get() or {}), **fields}
    token = _context.set(inside)
    try:
        yield
    except Exception as error:
        error.__dict__.setdefault(_IDS, inside)  # the innermost context has all fields
        raise
    finally:
        _context.reset(token)


def ids_of(error: BaseException | None) -> dict[str, object]:
    """Return the fields of the context that an error was raised in; {} without a context."""
    return {**getattr(error, _IDS, {})}


class Once:
    """Logs a problem of a loop once, and again only after it changed or ended."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._last = ""

    def __call__(self, problem: str) -> None:
        """Log a problem unless it is the same as last time; "" means no problem."""
        if problem not in {"", self._last}:
            self._logger.warning("%s", problem)
        self._last = problem


class JsonFormatter(logging.Formatter):
    """One line of JSON per record: time, level, logger, message, context, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **ids_of(record.exc_info[1] if record.exc_info else None),
            **(_context.get() or {}),
        }
        if record.exc_info and record.exc_info[0]:
            # Place and type only: the message may quote a name, an address or a mask.
            frames = traceback.format_tb(record.exc_info[2])
            line["exception"] = "".join([*frames, record.exc_info[0].__name__])
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send every logger of this process to standard error as JSON lines."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonFormatter}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            # Libraries log from WARNING on: at INFO some name every address that they call.
            "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {
                **{name: {"level": level} for name in ("backend", "model", "waitress")},
                # Waitress warns whenever a request waits for a thread, which is normal.
                "waitress.queue": {"level": "ERROR"},
                # Without our handler DBOS installs its own, which quotes whole errors.
                "dbos": {"handlers": ["stderr"], "propagate": False},
            },
        }
    )
