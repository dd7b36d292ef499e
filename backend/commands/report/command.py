"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import click

from backend.commands.arguments import PROJECT
from backend.settings import load_settings


@click.command()
@click.argument("project", type=PROJECT)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def report(project: int, folder: Path) -> None:
    """Write a report on PROJECT into DIR: report.html and report.json.

    The page holds its pictures and needs no network. It names no person, no file and no source,
    but it shows the held-out scans on which the model fails.
    """
    from backend.commands.report import content, page, pictures  # loads torch
    from backend.rounds.services import build
    from backend.storage.store import open_known

    settings = load_settings()
    store = open_known(settings.database)
    services = build(settings, store)
    found = content.read(services, project)
    failures, why = pictures.failures(services, store.projects.known(project))
    for path in page.write(folder, found, failures, why):
        click.echo(f"Written: {path}")
    if why:
        click.echo(f"No failure examples: {why}")
