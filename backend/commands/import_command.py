"""`import`: volumes and pictures become the tasks of a project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from backend.commands.arguments import PROJECT
from backend.errors import of_system
from backend.settings import load_settings, prepare_data_dir, require_api_key


@click.command(name="import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--project", type=PROJECT, metavar="NUMBER", help="The project to fill.")
@click.option("--new", "title", default="", help="Make a project with this title, and fill it.")
@click.option("--labels", default="", help="Classes of a new project, separated by commas.")
@click.option(
    "--window",
    default="percentile",
    show_default=True,
    help="lung, bone, soft-tissue, brain, percentile, or LEVEL/WIDTH.",
)
@click.option("--slices", default="all", show_default=True, help="all, every:N or tissue.")
@click.option(
    "--slab",
    type=click.INT,
    default=1,
    show_default=True,
    help="Slices of a task, as pages to turn: an odd number from 3 to 15.",
)
@click.option("--frame", type=click.IntRange(0), help="Which volume of a 4-D source, from 0.")
@click.option("--keep", default="", help="DICOM elements for task data: PatientAge,PatientSex.")
@click.option("--keep-names", is_flag=True, help="Call volumes by their files, not by pseudonyms.")
@click.option("--out", type=click.Path(path_type=Path), help="[default: DATA_DIR/imports/PROJECT]")
@click.option(
    "--local-files",
    metavar="HERE[:THERE]",
    default="",
    help="Upload nothing: write below Label Studio's LOCAL_FILES_DOCUMENT_ROOT.",
)
def import_(source: Path, **asked: Any) -> None:
    """Make tasks of the slices in SOURCE: a file, or a folder with all below it.

    It reads DICOM, NIfTI, TIFF, PNG and JPEG. Run the same command again after an interruption, or
    for new files: nothing is imported twice.
    """
    if (asked["project"] is None) == (not asked["title"]):
        raise click.UsageError("Give --project ID or --new TITLE.")
    settings = load_settings()
    require_api_key(settings)
    prepare_data_dir(settings)
    from backend.commands import importing

    try:
        complete = importing.run(settings, source, asked)
    except OSError as error:
        raise of_system(error) from error
    sys.exit(0 if complete else 1)
