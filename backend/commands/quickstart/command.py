"""The command `quickstart` and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from backend.commands.quickstart.process import stop_on_signals
from backend.errors import of_system
from backend.settings import load_settings, override, require_api_key

PORT = click.IntRange(1, 65535)


@click.command(context_settings={"show_default": True})
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--label-studio", metavar="URL", default="", help="Use a Label Studio that runs.")
@click.option("--token", default="", help="Its API token.  [default: LABEL_STUDIO_API_KEY]")
@click.option(
    "--label", "labels", multiple=True, default=["Object"], help="What is drawn; may be repeated."
)
@click.option(
    "-p",
    "--port",
    type=PORT,
    help="Of Firstlight.  [default: a free one; with a URL: PORT]",
)
@click.option("--label-studio-port", type=PORT, help="[default: a free one]")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for all state.  [default: DATA_DIR; without FOLDER one that every run replaces]",
)
@click.option("--browser/--no-browser", default=True, help="Open the project in a browser.")
@click.option("--scans", type=click.IntRange(1), default=60, help="Synthetic scans.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the synthetic scans.")
def quickstart(folder: Path | None, label_studio: str, token: str, **asked: Any) -> None:
    """Go from nothing, or from the images in FOLDER, to an ordered queue.

    It starts a Label Studio and Firstlight, imports the scans, connects both, and runs until
    Ctrl-C. The same command with the same FOLDER goes on where it stopped.
    """
    from backend.commands.quickstart import run  # loads what a quick --help does without

    if token and not label_studio:
        raise click.UsageError("--token needs --label-studio.")
    override({"label_studio_url": label_studio or None, "label_studio_api_key": token or None})
    if label_studio:
        override({"port": asked["port"]})
    settings = load_settings()
    if label_studio:
        require_api_key(settings)
        asked["port"] = settings.port
    plan = run.Plan(folder=folder, label_studio=label_studio and settings.label_studio_url, **asked)
    stop_on_signals()
    try:
        run.run(plan, settings)
    except KeyboardInterrupt:
        click.echo("\nStopped.")
    except OSError as error:
        raise of_system(error) from error
