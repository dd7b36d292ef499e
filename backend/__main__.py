"""The command line: python -m backend COMMAND."""

from __future__ import annotations

import sys

import click

from backend import logs
from backend.errors import FirstlightError
from backend.settings import (
    Settings,
    load_settings,
    prepare_data_dir,
    require_api_key,
    tame_threads,
)


@click.group(help=__doc__)
def cli() -> None:
    """Firstlight, an active-learning backend for Label Studio."""
    tame_threads()


@cli.command()
def start() -> None:
    """Run the web process and the worker until Ctrl-C."""
    from backend import supervisor

    _service()
    sys.exit(supervisor.run())


@cli.command()
def web() -> None:
    """Run the web process alone."""
    from backend.web import serve

    serve(_service())


@cli.command()
def worker() -> None:
    """Run the worker alone."""
    settings = _service()
    from backend.worker import run  # after the environment is known to be good

    run(settings)


@cli.command()
@click.argument("project", type=int)
@click.option("--extra-params", default="", help='Project options as JSON, e.g. {"alpha": 0.5}.')
def connect(project: int, extra_params: str) -> None:
    """Register this backend with the Label Studio project PROJECT."""
    from backend.connecting import connect as run
    from backend.gateway import LabelStudio

    settings = load_settings()
    require_api_key(settings)
    click.echo(run(settings, LabelStudio(settings), project, extra_params))


def _service() -> Settings:
    """Read the settings of a process that serves, and find out at once what will not work."""
    settings = load_settings()
    logs.configure(settings.log_level)
    require_api_key(settings)
    prepare_data_dir(settings)
    return settings


def main() -> None:
    """Run a command; a person's mistake is one line and exit code 2, never a traceback."""
    try:
        cli()
    except FirstlightError as error:
        click.echo(str(error), err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
