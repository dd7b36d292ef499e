"""Write a report as one page of HTML, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from backend.commands.report.content import Report
from backend.commands.report.pictures import Failure
from backend.errors import ConfigError
from backend.storage import artifacts
from backend.web import project_page
from backend.web.project_page import label_panels, review_panel, stopping_panel, words
from backend.web.responses import written
from model.evaluation import METRICS

TEMPLATES = Path(__file__).parent / "templates"
OF_THE_PAGE = Path(project_page.__file__).parent
STYLE = OF_THE_PAGE / "static" / "page.css"


def write(folder: Path, found: Report, failures: Sequence[Failure], why: str) -> list[Path]:
    """Write report.html and report.json; return their paths.

    Args:
        folder: Where; it is made if it is missing.
        found: The facts.
        failures: The pictures.
        why: Why there are no pictures, "" if there are some.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    html = _html(found, failures, why)
    files = {"report.html": html, "report.json": written(found) + "\n"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write(folder / name, text)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}).",
            "Give a folder that this user may write.",
        ) from None
    return [folder / name for name in files]


def _write(path: Path, text: str) -> None:
    artifacts.write(path, lambda file: file.write(text.encode()))


def _html(found: Report, failures: Sequence[Failure], why: str) -> str:
    state: dict[str, Any] = {**found.model_dump(), "people": {}}  # people are numbers
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=found,
            state=state,
            style=STYLE.read_text(),
            failures=failures,
            why=why,
            metrics=METRICS,
            minutes_said=label_panels.minutes(state),
            agreement_said=label_panels.agreement(state),
            matrix=label_panels.matrix(state),
            review_said=review_panel.said(state),
            review_off="" if found.options["review"] else review_panel.OFF,
            stopping_said=stopping_panel.lines(state),
            stopping_picture=stopping_panel.picture(state),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, OF_THE_PAGE / "templates"]),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["counted"] = words.count
    environment.filters["coded"] = words.coded
    return environment
