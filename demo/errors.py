"""The one error of the demo."""

from __future__ import annotations


class DemoError(Exception):
    """What went wrong and how to fix it, in one line fit for a terminal."""
