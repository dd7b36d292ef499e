"""python -m demo: a Label Studio, the backend and a project, ready to annotate."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from filelock import FileLock, Timeout

from demo import rounds, scans
from demo.annotator import Annotator
from demo.backend import Backend
from demo.errors import DemoError
from demo.studio import ROOT, LabelStudio


@dataclass(frozen=True)
class Plan:
    """The options of the command line."""

    data: Path | None
    scans: int
    headless: bool
    rounds: int
    labels_per_round: int
    seed: int
    keep: Path | None
    label_studio_port: int | None


@click.command(context_settings={"show_default": True})
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of PNG or JPEG images, or of folders images/ and masks/ (the truth).",
)
@click.option(
    "--scans", type=click.IntRange(1), default=60, help="Number of phantoms, without --data."
)
@click.option("--headless", is_flag=True, help="Let a simulated annotator label, then end.")
@click.option(
    "--rounds", type=click.IntRange(0), default=2, help="Number of rounds with --headless."
)
@click.option("--labels-per-round", type=click.IntRange(1), default=5)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of phantoms and backend.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder for all state, instead of .demo, which every run replaces.",
)
@click.option("--label-studio-port", type=click.IntRange(1, 65535), help="Default: a free one.")
def main(**options: Any) -> None:
    """Start Label Studio and the backend on phantoms, or on your images, until Ctrl-C."""
    plan = Plan(**options)
    _stop_on_signals()
    try:
        run(plan)
    except KeyboardInterrupt:
        click.echo("\nStopped.")
        sys.exit(130 if plan.headless else 0)
    except (DemoError, OSError) as error:
        raise click.ClickException(str(error)) from error


def run(plan: Plan) -> None:
    """Start everything, let a person or the simulated annotator work, then stop everything."""
    with ExitStack() as started:
        state = started.enter_context(state_folder(plan.keep))
        pool = _pool(plan, state)
        click.echo("Starting Label Studio; the first time ever, its database takes a minute ...")
        studio = started.enter_context(
            LabelStudio(state / "label-studio", port=plan.label_studio_port)
        )
        click.echo(f"Label Studio answers at {studio.url}. Starting the backend ...")
        backend = started.enter_context(Backend(studio.url, studio.token, state / "backend"))
        annotator = started.enter_context(Annotator(studio.url, studio.token))
        project = annotator.create_project("Firstlight demo", ["Object"])
        tasks = annotator.import_scans(project, pool)
        click.echo(f"{len(tasks)} scans imported. Waiting for the ordered queue ...")
        asked = time.monotonic()
        backend.connect(project, {"seed": plan.seed})
        walk = rounds.Walk(annotator, backend, project, tasks, labelled=set())
        if plan.headless:
            _print_table(walk, plan, asked)
        else:
            first = walk.cold_start(asked)
            _print_addresses(studio, backend, project, first)
            _watch(studio, backend)


@contextmanager
def state_folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder that no other demo uses: `keep`, which must be new or empty, or .demo."""
    folder = (keep or ROOT / ".demo").resolve()
    if keep and folder.exists() and any(folder.iterdir()):
        raise DemoError(f"{folder} is not empty; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DemoError(f"Another demo runs in {folder}; give this one --keep NEW.") from None
    try:
        _empty(folder)
        yield folder
    finally:
        lock.release()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _pool(plan: Plan, state: Path) -> list[scans.Scan]:
    if plan.data is None:
        return scans.phantoms(plan.scans, state / "phantoms", seed=plan.seed)
    pool = scans.from_folder(plan.data)
    if plan.headless and all(scan.mask is None for scan in pool):
        raise DemoError("--headless draws the true masks: put a masks folder beside images.")
    return pool


def _print_table(walk: rounds.Walk, plan: Plan, asked: float) -> None:
    click.echo(rounds.header())
    click.echo(rounds.line(walk.cold_start(asked)))
    for row in walk.rounds(plan.rounds, plan.labels_per_round):
        click.echo(rounds.line(row))


def _print_addresses(
    studio: LabelStudio, backend: Backend, project: int, first: rounds.Row
) -> None:
    click.echo(f"The queue is ready after {first.seconds:.0f} s; it starts with {first.head}.\n")
    click.echo(f"Annotate   {studio.url}/projects/{project}/data  (press Label All Tasks)")
    click.echo(f"Login      {studio.email}")
    click.echo(f"Password   {studio.password}")
    click.echo(f"Watch      {backend.page(project)}")
    click.echo("\nCtrl-C stops everything.")


def _watch(studio: LabelStudio, backend: Backend) -> NoReturn:
    while True:
        studio.check()
        backend.check()
        time.sleep(1)


def _stop_on_signals() -> None:
    """Let the first signal end the demo in order, and ignore every later signal.

    SIGINT is always set, because shells start background jobs with SIGINT ignored. An ignored
    SIGHUP stays ignored, because that is what nohup asks for.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def stop(_number: int, _frame: object) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)


if __name__ == "__main__":
    main()
