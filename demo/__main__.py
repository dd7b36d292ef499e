"""python -m demo: a simulated annotator labels scans with known masks; a row for each round."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from backend.commands.quickstart import progress
from backend.commands.quickstart.process import stop_on_signals
from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.state import emptied
from backend.commands.quickstart.studio import LabelStudio
from backend.errors import FirstlightError
from demo import rounds, scans
from demo.annotator import Annotator
from demo.errors import DemoError


@dataclass(frozen=True)
class Plan:
    """The options of the command line."""

    data: Path | None
    scans: int
    rounds: int
    labels_per_round: int
    seed: int
    keep: Path | None
    label_studio_port: int | None


@click.command(context_settings={"show_default": True})
@click.option("--headless", is_flag=True, hidden=True)  # scripts/demo knows us by it
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of folders images/ and masks/ (the truth).",
)
@click.option(
    "--scans", type=click.IntRange(1), default=60, help="Number of phantoms, without --data."
)
@click.option("--rounds", type=click.IntRange(0), default=2)
@click.option("--labels-per-round", type=click.IntRange(1), default=5)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of phantoms and backend.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder for all state, instead of the demo's, which every run replaces.",
)
@click.option("--label-studio-port", type=click.IntRange(1, 65535), help="Default: a free one.")
def main(headless: bool, **options: Any) -> None:
    """Let a simulated annotator label phantoms, or your images by your masks, then end."""
    plan = Plan(**options)
    stop_on_signals()
    try:
        run(plan)
    except KeyboardInterrupt:
        click.echo("\nStopped.")
        sys.exit(130)
    except (DemoError, FirstlightError, OSError) as error:
        raise click.ClickException(str(error)) from error


def run(plan: Plan) -> None:
    """Start everything, let the simulated annotator work, then stop everything."""
    with ExitStack() as started:
        state = started.enter_context(emptied(plan.keep))
        pool = _pool(plan, state)
        studio = LabelStudio(state / "label-studio", port=plan.label_studio_port)
        with progress.waiting("Starting Label Studio (the first time ever takes a minute more)"):
            started.enter_context(studio)
        with progress.waiting("Starting Firstlight"):
            backend = started.enter_context(Backend(studio.url, studio.token, state / "backend"))
        annotator = started.enter_context(Annotator(studio.url, studio.token))
        project = annotator.create_project("Firstlight demo", ["Object"])
        tasks = annotator.import_scans(project, pool)
        click.echo(f"{len(tasks)} scans imported. Waiting for the ordered queue ...")
        asked = time.monotonic()
        backend.connect(project, {"seed": plan.seed})
        _print_table(rounds.Walk(annotator, backend, project, tasks, labelled=set()), plan, asked)


def _pool(plan: Plan, state: Path) -> list[scans.Scan]:
    if plan.data is None:
        return scans.phantoms(plan.scans, state / "phantoms", seed=plan.seed)
    pool = scans.from_folder(plan.data)
    if all(scan.mask is None for scan in pool):
        raise DemoError("The annotator draws the true masks: put a masks folder beside images.")
    return pool


def _print_table(walk: rounds.Walk, plan: Plan, asked: float) -> None:
    click.echo(rounds.header())
    click.echo(rounds.line(walk.cold_start(asked)))
    for row in walk.rounds(plan.rounds, plan.labels_per_round):
        click.echo(rounds.line(row))


if __name__ == "__main__":
    main()
