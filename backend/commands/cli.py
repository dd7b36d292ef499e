"""The command line: firstlight COMMAND, or python -m backend COMMAND in a clone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backend import __version__, logs
from backend.commands.arguments import PROJECT
from backend.commands.export import export
from backend.commands.import_command import import_
from backend.commands.migrate import migrate
from backend.commands.quickstart.command import quickstart
from backend.commands.report.command import report
from backend.commands.supervisor import MISCONFIGURED, end_with_parent
from backend.commands.supervisor import run as supervise
from backend.errors import FirstlightError, StorageError, of_system
from backend.settings import (
    Settings,
    keep_private,
    load_settings,
    override,
    prepare_data_dir,
    require_api_key,
    tame_threads,
)
from backend.storage import bucket
from model import registry

if TYPE_CHECKING:
    from backend.rounds.publications import ProjectPublications
    from backend.storage.store import Store


def _any_of(names: Sequence[str]) -> str:
    return f"One or more of {', '.join(names)}, separated by commas."


@click.group()
@click.version_option(__version__, prog_name="firstlight")
def cli() -> None:
    """Decide which scan to label next: an active-learning backend for Label Studio."""
    tame_threads()
    keep_private()


@cli.command()
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Where to listen.  [PORT]")
@click.option("--host", help="The address to listen at.  [HOST]")
@click.option("--basic-auth-user", help="User of the password.  [BASIC_AUTH_USER]")
@click.option(
    "--basic-auth-pass",
    help="The password. Every user of this machine can read it here; BASIC_AUTH_PASS hides it.",
)
def start(**chosen: object) -> None:
    """Run the web process and the worker until Ctrl-C. Options win over the environment."""
    override(chosen)
    _service_with_worker()
    sys.exit(supervise())


@cli.command()
@click.option("--with-parent", is_flag=True, hidden=True)
def web(with_parent: bool) -> None:
    """Run the web process alone."""
    from backend.web.server import serve

    settings = _service(with_parent)
    serve(settings)


@cli.command()
@click.option("--with-parent", is_flag=True, hidden=True)
@click.option(
    "--alive", is_flag=True, help="Only check: exit code 0 if a worker runs here, else 1."
)
def worker(with_parent: bool, alive: bool) -> None:
    """Run the worker alone."""
    if alive:
        from backend.storage.store import open_known
        from backend.storage.workers import works_here

        sys.exit(0 if works_here(open_known(load_settings().database).workers) else 1)
    settings = _service_with_worker(with_parent)
    from backend.worker.main import run  # slow to import, so the settings are checked first

    run(settings)


@cli.command()
@click.argument("project", type=PROJECT)
@click.option("--extra-params", default="", help='Project options as JSON, e.g. {"alpha": 0.5}.')
@click.option(
    "--clicks", is_flag=True, help="Also add smart tags for clicks and boxes to the interface."
)
def connect(project: int, extra_params: str, clicks: bool) -> None:
    """Register this backend with the Label Studio project PROJECT."""
    from backend.commands.connection import connect as run
    from backend.label_studio.client import LabelStudio

    settings = load_settings()
    require_api_key(settings)
    click.echo(run(settings, LabelStudio(settings), project, extra_params, clicks=clicks))


@cli.command()
@click.argument("project", type=PROJECT)
@click.option("--forget", is_flag=True, help="Also delete all that is kept here of the project.")
def disconnect(project: int, forget: bool) -> None:
    """Remove this backend from PROJECT: its entry, webhook and tab in Label Studio."""
    from backend.commands import connection
    from backend.label_studio.client import LabelStudio

    settings = load_settings()
    require_api_key(settings)
    store = _store_if_any(settings)
    said = list(connection.disconnect(settings, LabelStudio(settings), store, project))
    click.echo(
        "\n".join(said or [f"Project {project} had no entry, webhook or tab of this backend."])
    )
    click.echo("The project's predictions and sampling stay in Label Studio as they are.")
    if forget:
        click.echo(connection.forget(settings, store, project))
    elif settings.artifacts_url:
        click.echo("Models, maps and rounds stay at ARTIFACTS_URL; --forget deletes them.")
    elif settings.project_folder(project).exists():
        click.echo(
            f"Models, maps and rounds stay in {settings.project_folder(project)}; --forget deletes "
            "them."
        )


@cli.command()
@click.argument("project", type=PROJECT)
def clean(project: int) -> None:
    """Remove the predictions of old versions of PROJECT from Label Studio now.

    The live version and the one before stay. A Label Studio on SQLite answers nobody while it
    deletes a version.
    """
    from backend.label_studio.client import LabelStudio
    from backend.label_studio.publisher import Publisher
    from backend.storage.store import open_known

    settings = load_settings()
    require_api_key(settings)
    store = open_known(settings.database)
    store.projects.known(project)
    publisher = Publisher(settings, store, LabelStudio(settings), project)
    removed = 0
    for version, number in publisher.remove_old():
        click.echo(f"{version}: {number} predictions removed.")
        removed += number
    click.echo(f"Project {project}: {removed} predictions of old versions removed.")


@cli.command()
@click.argument("project", type=PROJECT, required=False)
@click.option("--fix", is_flag=True, help="Repair what Label Studio's API can repair.")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list.")
def doctor(project: int | None, fix: bool, as_json: bool) -> None:
    """Check this installation, and PROJECT: say what is wrong, how to fix it, and what to do next.

    Exit code 1 when something is wrong.
    """
    import httpx

    from backend.commands import advice
    from backend.commands import doctor as checks
    from backend.rounds.services import build

    settings = load_settings()
    logs.configure("ERROR")  # the findings say what is wrong; the log would repeat it
    findings = []
    with httpx.Client(timeout=5.0, trust_env=False) as web:
        for finding in checks.examine(settings, project, build=build, web=web, fix=fix):
            findings.append(finding)
            if not as_json:
                click.echo(checks.line(finding))
    wrong = sum(not finding.ok for finding in findings)
    if as_json:
        click.echo(checks.document(findings))
    else:
        click.echo(advice.lines_to_paste(advice.missing_variables(findings)), nl=False)
        click.echo(checks.summary(findings))
        click.echo(advice.next_step(settings, findings, project, fix=fix))
    sys.exit(1 if wrong else 0)


@cli.command(name="stability")
@click.argument("source")
@click.option("--budget", type=int, help="Scans chosen on each map; the project's by default.")
@click.option(
    "--cold-start",
    type=click.Choice(registry.COLD_STARTS),
    help="The strategy; the project's by default.",
)
@click.option("--encoder", help="The encoder; the project's by default.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
def stability_(
    source: str, budget: int | None, cold_start: str | None, encoder: str | None, seeds: int
) -> None:
    """Measure how far a cold start depends on t-SNE's seed and perplexity.

    SOURCE is the id of a connected project, or a folder of images.
    """
    project = PROJECT(source) if source.isdigit() else None
    settings = load_settings()
    from backend.rounds.maps import stability  # loads torch
    from backend.storage.store import open_known

    given = {"cold_start_budget": budget, "cold_start": cold_start, "encoder": encoder}
    changed = {name: value for name, value in given.items() if value is not None}
    if project is not None:
        store = open_known(settings.database)
        measured = stability.of_project(settings, store, project, changed, seeds)
    else:
        measured = stability.of_folder(settings, Path(source), changed, seeds)
    click.echo(stability.table(measured))


@cli.command()
@click.argument("project", type=PROJECT)
def versions(project: int) -> None:
    """List the published versions of PROJECT, newest first."""
    click.echo(_versions(project).table())


@cli.command()
@click.argument("project", type=PROJECT)
@click.argument("version", nargs=-1)
@click.option("--resume", is_flag=True, help="Train again, from the next round on.")
def rollback(project: int, version: tuple[str, ...], resume: bool) -> None:
    """Go back to the queue of VERSION's model in PROJECT, and train nothing until --resume."""
    if resume and version:
        raise click.UsageError("Give a version or --resume, not both.")
    known = _versions(project)
    # A version's name has spaces: accept it without quotes.
    click.echo(known.resume() if resume else known.pin(" ".join(version)))


@cli.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Parent of the folders in recipes.  [default: that of the recipe]",
)
@click.option("--encoder", help="Encoders, separated by commas.  [default: ENCODER]")
@click.option("--projection", default="tsne", show_default=True, help=_any_of(registry.PROJECTIONS))
@click.option(
    "--cold-start", default="medoids,random", show_default=True, help=_any_of(registry.COLD_STARTS)
)
@click.option(
    "--acquisition",
    default="entropy-diversity",
    show_default=True,
    help=_any_of(registry.ACQUISITIONS),
)
@click.option("--alpha", default="0.3", show_default=True)
@click.option(
    "--uncertainty", default="entropy", show_default=True, help=_any_of(registry.UNCERTAINTIES)
)
@click.option(
    "--group-by",
    default="auto",
    show_default=True,
    help="Groups of slices: patient, volume, or volume+slice as in an imported project.",
)
@click.option(
    "--arm", multiple=True, help="One more arm: the first with changes, cold-start=kmeans,alpha=1."
)
@click.option("--seeds", default="0-4", show_default=True, help="Seeds of selection and training.")
@click.option("--random-draws", type=click.IntRange(1), help="Seeds of `random`, if not --seeds.")
@click.option(
    "--labels", default="10,20,30", show_default=True, help="Numbers of labelled scans, rising."
)
@click.option("--held-out", type=click.IntRange(1), default=40, show_default=True)
@click.option("--folds", type=click.IntRange(2), help="Hold out each of so many parts in turn.")
@click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--image-size", type=click.IntRange(32))
@click.option("--steps", type=click.IntRange(1), help="Steps of a training.")
@click.option("--train-seeds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--baseline", default="", help="Option values of the arm to compare with.")
@click.option(
    "--attention", type=click.IntRange(0), default=0, help="Scans drawn with their attention maps."
)
@click.option("--all-labels", is_flag=True, help="Train on the whole pool too (recipes only).")
@click.option("--selection-only", is_flag=True, help="Measure the first choice; train nothing.")
@click.option("--stop", is_flag=True, help="Replay the stop rule (needs --train-seeds 2).")
@click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: one for each core]")
@click.option("--out", type=click.Path(path_type=Path), help="[default: DATA_DIR/simulation]")
def simulate(
    data: tuple[Path, ...], root: Path | None, out: Path | None, jobs: int | None, **asked: Any
) -> None:
    """Compare query strategies on the labelled scans in DATA: every combination, every seed.

    DATA is a folder, or one or several recipes of pools (TOML). Run the same command again to
    continue a stopped run. docs/experiments.md explains recipes and the output.
    """
    from backend.experiments import plans, selections
    from backend.experiments import simulate as simulation
    from backend.experiments.studies import Data

    if any(path.is_dir() for path in data) and len(data) > 1:
        raise click.UsageError("Give one folder, or recipes of pools.")
    if asked["all_labels"] and data[0].is_dir():
        raise click.UsageError("--all-labels needs recipes of pools.")
    settings = load_settings()
    plan = plans.plan_of({**asked, "encoder": asked["encoder"] or settings.encoder})
    failed = (selections.choose if plan.selection_only else simulation.simulate)(
        plan,
        Data(data, root),
        out or settings.data_dir / "simulation",
        jobs=jobs or os.cpu_count() or 1,
        settings=settings,
        say=click.echo,
    )
    sys.exit(1 if failed else 0)


for command in (export, import_, migrate, quickstart, report):
    cli.add_command(command)


def _store_if_any(settings: Settings) -> Store | None:
    """Open the database if there is one: `disconnect` works without a database too."""
    from backend.storage.database import sqlite_path
    from backend.storage.store import open_known

    path = sqlite_path(settings.database)
    return None if path and not path.exists() else open_known(settings.database)


def _versions(project: int) -> ProjectPublications:
    from backend.rounds.publications import ProjectPublications
    from backend.storage.artifacts import Artifacts
    from backend.storage.store import open_known

    settings = load_settings()
    store = open_known(settings.database)
    files = Artifacts(settings.data_dir, settings.artifacts_url).of(project)
    return ProjectPublications(store, store.projects.known(project), files)


def _service(with_parent: bool = False) -> Settings:
    """Return the settings of a service process; raise at once if they cannot work."""
    if with_parent:
        end_with_parent()
    settings = load_settings()
    logs.configure(settings.log_level)
    require_api_key(settings)
    prepare_data_dir(settings)
    bucket.prepare(settings.artifacts_url)
    return settings


def _service_with_worker(with_parent: bool = False) -> Settings:
    """Return the settings of a service process that runs rounds; raise if DBOS cannot run them."""
    from backend.worker import jobs_database

    settings = _service(with_parent)
    jobs_database.require_known_time(settings.jobs_database)
    return settings


def main() -> None:
    """Run a command; a person's mistake gives one line and exit code 2, never a traceback."""
    try:
        cli()
    except (FirstlightError, PermissionError) as raised:
        error = of_system(raised) if isinstance(raised, PermissionError) else raised
        click.echo(str(error), err=True)
        # A storage error may pass, so exit code 1 lets `start` try again.
        sys.exit(1 if isinstance(error, StorageError) else MISCONFIGURED)
