"""Plugins for a test: entry points that name functions and classes of its module."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint

import pytest

from model import plugins


def plug(patch: pytest.MonkeyPatch, group: str, module: str, *names: str) -> None:
    """Let these names of a module be the plugins of a group, and forget which ones failed."""
    real = plugins.found
    points = {name: EntryPoint(name, f"{module}:{name}", group) for name in names}

    def found(asked: str) -> Mapping[str, EntryPoint]:
        return points if asked == group else real(asked)

    patch.setattr(plugins, "found", found)
    patch.setattr(plugins, "_aside", {})
