"""Write the documents of an experiment: Markdown from templates, and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from backend.storage import artifacts

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Return the text of a template. Its filter `shown` writes numbers, its filter `interval` a
    value with its interval.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(),  # escapes HTML; Markdown stays as it is
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["shown"] = _shown
    environment.filters["interval"] = _interval
    return environment


def _shown(value: float, pattern: str, missing: str) -> str:
    """Return a number as text, or `missing` for NaN."""
    return missing if math.isnan(value) else pattern % value


def _interval(values: tuple[float, float, float], pattern: str) -> str:
    """Return a value with its interval as text; "-" for NaN, "?" for unknown limits."""
    value, low, high = values
    if math.isnan(value):
        return "-"
    limits = ", ".join(_shown(limit, pattern, "?") for limit in (low, high))
    return f"{pattern % value} [{limits}]"


def csv_text(lines: Sequence[Mapping[str, Any]], *, empty: str) -> str:
    """Return a table with a line for each mapping; `empty` is its only column without lines."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [empty], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    artifacts.write(path, lambda file: file.write(text.encode()))


def json_value(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: NaN becomes null, in lists and mappings too."""
    if isinstance(value, Mapping):
        return {name: json_value(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(of) for of in value]
    return None if isinstance(value, float) and math.isnan(value) else value
