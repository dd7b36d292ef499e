"""Strategies, encoders and networks of other packages, by name.

A package names each of its own in an entry point of one of the groups below. Such code may fail in
any way. So it runs under `guarded`, and whoever uses it takes the built-in default instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

log = logging.getLogger(__name__)

COLD_STARTS = "firstlight.cold_starts"
ACQUISITIONS = "firstlight.acquisitions"
ENCODERS = "firstlight.encoders"
NETWORKS = "firstlight.networks"

_NOUNS = {
    COLD_STARTS: "cold start",
    ACQUISITIONS: "acquisition",
    ENCODERS: "encoder",
    NETWORKS: "network",
}
# Encoders and networks that failed in this process, with the reason: nobody tries them again.
_aside: dict[tuple[str, str], str] = {}


class PluginError(ValueError):
    """A plugin cannot be imported, raised an error, or returned something unexpected."""


@cache
def found(group: str) -> Mapping[str, EntryPoint]:
    """Return the plugins of a group by name, not yet loaded."""
    return {point.name: point for point in entry_points(group=group)}


def load(group: str, name: str) -> Any:
    """Return what the entry point of a plugin names.

    Raises:
        PluginError: If it cannot be imported.
    """
    with guarded(group, name):
        return found(group)[name].load()


def version(group: str, name: str) -> str:
    """Return the release of a plugin's package, "" if it is unknown."""
    package = found(group)[name].dist
    return package.version if package else ""


@contextmanager
def guarded(group: str, name: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever a plugin raises into a PluginError that names the plugin.

    Args:
        group: Of the plugin.
        name: Of the plugin.
        passing: Errors of our own code around the plugin, which are raised as they are.
    """
    ours: tuple[type[Exception], ...] = (PluginError, *passing)
    try:
        yield
    except ours:
        raise
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        log.warning("the plugin %s %r failed", _NOUNS[group], name, exc_info=error)
        raise failure(
            group, name, f"failed ({type(error).__name__}): correct the plugin"
        ) from error


def expect(fine: object, group: str, name: str, got: object, expected: str) -> None:
    """Raise PluginError unless what a plugin gave is fine.

    Args:
        fine: Whether it is.
        group: Of the plugin.
        name: Of the plugin.
        got: What it gave; the message names its type.
        expected: What was expected, in words.
    """
    if not fine:
        raise failure(group, name, f"returned a {type(got).__name__}: expected {expected}")


def failure(group: str, name: str, why: str) -> PluginError:
    """Return the error that says how a plugin failed."""
    noun = _NOUNS[group]
    return PluginError(f"the plugin of {noun} {name!r} {why}, or choose another {noun}")


def set_aside(group: str, name: str, error: Exception) -> None:
    """Let nobody in this process use a plugin any more."""
    _aside[group, name] = str(error)


def why_aside(group: str, name: str) -> str:
    """Return why a plugin was set aside, "" if it was not."""
    return _aside.get((group, name), "")
