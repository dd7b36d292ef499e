"""Words that the sentences of all parts of a page share."""

from __future__ import annotations

import re

from markupsafe import Markup, escape


def line(words: str) -> str:
    """Return a text as one line."""
    return " ".join(words.split())


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """Return seconds in the unit that a person would choose."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def coded(words: str) -> Markup:
    """Return a sentence as HTML, in which names between backticks are code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words))))  # noqa: S704 - escaped
