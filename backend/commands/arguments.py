"""Arguments that several commands take."""

from __future__ import annotations

import click


class _ProjectNumber(click.IntRange):
    name = "project number"  # ends the sentence that refuses another value


PROJECT = _ProjectNumber(1, 2**31 - 1)  # ids of Label Studio's projects
