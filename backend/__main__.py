"""The command line: python -m backend COMMAND."""

from __future__ import annotations

import sys

import click

from backend import logs
from backend.errors import FirstlightError, StorageError
from backend.settings import (
    Settings,
    load_settings,
    prepare_data_dir,
    require_api_key,
    tame_threads,
)
from backend.supervisor import MISCONFIGURED, end_with_parent
from backend.supervisor import run as supervise


@click.group(help=__doc__)
def cli() -> None:
    """Firstlight, an active-learning backend for Label Studio."""
    tame_threads()


@cli.command()
def start() -> None:
    """Run the web process and the worker until Ctrl-C."""
    _service()
    sys.exit(supervise())


@cli.command()
@click.option("--with-parent", is_flag=True, hidden=True)
def web(with_parent: bool) -> None:
    """Run the web process alone."""
    from backend.web import serve

    settings = _service(with_parent)
    serve(settings)


@cli.command()
@click.option("--with-parent", is_flag=True, hidden=True)
def worker(with_parent: bool) -> None:
    """Run the worker alone."""
    settings = _service(with_parent)
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


def _service(with_parent: bool = False) -> Settings:
    """Read the settings of a process that serves, and find out at once what will not work."""
    if with_parent:
        end_with_parent()
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
        # What may heal by itself is worth another start; a wrong setting is not.
        sys.exit(1 if isinstance(error, StorageError) else MISCONFIGURED)


if __name__ == "__main__":
    main()
