"""The command `export`: masks of a project as files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backend.commands.arguments import PROJECT
from backend.commands.supervisor import end_with_parent
from backend.exchange.export.format_names import FORMATS, TABLE
from backend.settings import load_settings, require_api_key

if TYPE_CHECKING:
    from backend.exchange.export.running import Choice
    from backend.rounds.services import Services

DEFAULTS = ("submitted", "majority")  # of --masks and --annotations
SHOWN = 20  # problems; export.json lists all


@click.command()
@click.argument("project", type=PROJECT)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--to", "to", required=True, type=click.Choice([*FORMATS]))
@click.option(
    "--masks",
    type=click.Choice(["submitted", "model", "both"]),
    default="submitted",
    show_default=True,
    help="Those that people submitted, the live model's, or the model's where there is none.",
)
@click.option(
    "--annotations",
    type=click.Choice(["majority", "latest", "each"]),
    default="majority",
    show_default=True,
    help="How several annotations of a scan are merged; `each` makes a folder an annotator.",
)
@click.option(
    "--manifest",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the slices that `import` wrote.  [default: that in DATA_DIR]",
)
@click.option("--names", is_flag=True, help="E-mail addresses of annotators instead of numbers.")
@click.option("--with-parent", is_flag=True, hidden=True)
def export(
    project: int,
    folder: Path,
    manifest: Path | None,
    names: bool,
    with_parent: bool,
    **asked: str,
) -> None:
    """Export masks of PROJECT into DIR; later, the same command writes only what changed.

    `nnunet`, `nifti` and `dicomseg` put slices of imported volumes together. `csv` is a table of
    the annotations. docs/export.md says what each format holds. Exit code 1 when something is left
    out.
    """
    from backend.exchange.export.running import Choice
    from backend.rounds.services import build
    from backend.storage.store import open_known

    if with_parent:
        end_with_parent()
    if asked["to"] == TABLE and (asked["masks"], asked["annotations"]) != DEFAULTS:
        raise click.UsageError("csv has no masks: leave --masks and --annotations out.")
    settings = load_settings()
    require_api_key(settings)
    services = build(settings, open_known(settings.database))
    people = services.studio.user_names() if names else {}
    if asked["to"] == TABLE:
        said = table(services, project, folder, people)
    else:
        choice = Choice(asked["to"], asked["masks"], asked["annotations"])  # type: ignore[arg-type]
        said = write_masks(services, project, choice, folder, manifest, people)
    click.echo("\n".join(said.lines))
    sys.exit(1 if said.left_out else 0)


@dataclass(frozen=True)
class Said:
    """What the command says at its end, and how much is left out of the export."""

    lines: list[str]
    left_out: int


def table(services: Services, project: int, folder: Path, people: Mapping[int, str]) -> Said:
    """Write the table of a project's annotations."""
    from backend.exchange.export.table import NAME, export_table

    written = export_table(services, services.store.projects.known(project), folder, people)
    lines = [f"Project {project}: {written.lines} annotations in {folder / NAME}."]
    lines += _problems(written.problems, most=len(written.problems))
    return Said(lines, len(written.problems))


def write_masks(
    services: Services,
    project: int,
    choice: Choice,
    folder: Path,
    manifest: Path | None,
    people: Mapping[int, str],
) -> Said:
    """Export masks, with a bar of progress on a terminal."""
    from backend.exchange.export.running import Export

    known = services.store.projects.known(project)
    export = Export(services, known, choice, folder, manifest, people)
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=0, label="Scans", file=sys.stderr, hidden=hidden) as bar:

        def show(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)

        report = export.run(show)
    lines = [
        f"Project {project}: {report.scans} scans as {choice.format} in {folder}. "
        f"Files of {report.written} of {report.cases} cases were written, "
        f"{report.removed} deleted, the others are unchanged.",
        *report.hints,
        *_problems(report.problems),
    ]
    return Said(lines, len(report.problems))


def _problems(problems: Sequence[str], most: int = SHOWN) -> Iterator[str]:
    if problems:
        yield f"{len(problems)} times something was left out:"
    yield from (f"  {problem}" for problem in problems[:most])
    if len(problems) > most:
        yield f"  and {len(problems) - most} more; export.json lists all"
