"""Everything from nothing, or from a folder of images, to an ordered queue."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
from pydantic import SecretStr

from backend import PROGRAM
from backend.commands import checks_installation, connection, importing
from backend.commands.quickstart import images, installation, preflight, progress, state
from backend.commands.quickstart.images import Image
from backend.commands.quickstart.process import has_display
from backend.commands.quickstart.service import Backend
from backend.commands.quickstart.state import Kind
from backend.commands.quickstart.studio import LabelStudio as OwnLabelStudio
from backend.errors import ConfigError, ImageError, NotFound
from backend.exchange.importing import Plan as ImportPlan
from backend.exchange.importing import Target
from backend.exchange.pseudonyms import Pseudonyms
from backend.exchange.serving import Uploads
from backend.imaging import sources
from backend.imaging.manifest import default_folder
from backend.imaging.sources import Reading
from backend.label_studio.client import LabelStudio
from backend.label_studio.labels import interface
from backend.label_studio.task_import import TaskImport
from backend.settings import Settings

# Label Studio refuses more than 100 files or 250 MB at once.
FILES_A_CALL, BYTES_A_CALL = 20, 100_000_000
_MARK = re.compile(r"/[0-9a-f]{8}-([0-9a-f]{10})-[^/]*$")  # of an uploaded image


@dataclass(frozen=True)
class Plan:
    """The options of the command line.

    Attributes:
        folder: The images; None for synthetic scans.
        scans, seed: Of the synthetic scans.
        labels: What is drawn.
        label_studio: Address of a Label Studio that is there; "" to start one.
        port, label_studio_port: Where the service and Label Studio listen.
        keep: The folder for all state.
        browser: Whether to open one.
    """

    folder: Path | None
    scans: int
    seed: int
    labels: Sequence[str]
    label_studio: str
    port: int | None
    label_studio_port: int | None
    keep: Path | None
    browser: bool


@dataclass(frozen=True)
class Studio:
    """A Label Studio that answers; `own` if this command runs it."""

    url: str
    token: str
    own: OwnLabelStudio | None = None


def run(plan: Plan, settings: Settings) -> None:
    """Start everything, wait for the first queue, say where it is; stop everything at the end.

    Raises:
        FirstlightError: Says what is missing or went wrong, and how to fix it.
    """
    began = time.monotonic()
    with ExitStack() as started:
        folder = started.enter_context(_state_folder(plan, settings))
        memory = state.Memory.read(folder, plan.label_studio).with_ports(
            plan.port, plan.label_studio_port
        )
        pool, volumes = _pool(plan, folder)
        kind: Kind = "volumes" if volumes else "images"
        _check(plan, folder, [*(image.path for image in pool), *volumes])
        studio = started.enter_context(_label_studio(plan, settings, folder, memory))
        here = _as_settings(settings, studio, folder)
        client = LabelStudio(here)
        started.callback(client.close)
        if not studio.own:
            require_access(client, settings.public_url)
        memory.write(folder)
        with progress.waiting("Starting Firstlight"):
            backend = started.enter_context(_backend(memory.port, settings, studio, folder))
        project = project_of(plan, client, memory, folder, kind)
        _fill(plan, here, client, project, pool, kind)
        with progress.waiting("Connecting the project"):
            address = backend.url if studio.own else settings.public_url
            backend.connect(project, options_of(plan, client, project, address, kind))
        tasks = client.project(project).counters["task_number"]
        with progress.ordering("Ordering the scans", tasks) as show:
            backend.wait_for_queue(project, labels=0, seconds=math.inf, show=show)
        click.echo(f"\nThe queue is ready, {time.monotonic() - began:.0f} s after the start.\n")
        _say_what_next(studio, backend, project, folder)
        if plan.browser and has_display():
            click.launch(f"{studio.url}/projects/{project}/data")
        _watch(studio, backend)


def options_of(
    plan: Plan, client: LabelStudio, project: int, address: str, kind: Kind
) -> Mapping[str, object]:
    """Return the options to connect with: none if an entry is there, as it may hold a person's.

    Args:
        plan: Names the seed of synthetic scans.
        client: Label Studio.
        project: The project.
        address: Of the service.
        kind: What the project holds.
    """
    if any(connection.is_at(entry, address) for entry in client.entries(project)):
        return {}
    if kind == "volumes":
        return importing.GROUPED
    return {"seed": plan.seed} if plan.folder is None else {}


@contextmanager
def _state_folder(plan: Plan, settings: Settings) -> Iterator[Path]:
    kept = state.held(plan.keep or settings.data_dir) if plan.folder else state.emptied(plan.keep)
    with kept as folder:
        yield folder


def _pool(plan: Plan, folder: Path) -> tuple[list[Image], list[Path]]:
    """Return the images, and the DICOM and NIfTI files, with which all is imported as volumes.

    Raises:
        ConfigError: If there are no files, or the state lies among those of volumes.
    """
    if plan.folder is None:
        return images.phantoms(plan.scans, folder / "phantoms", seed=plan.seed), []
    pool, volumes = images.from_folder(plan.folder, state=folder)
    if volumes:
        importing.require_outside(folder, images.root_of(plan.folder), "--keep")
    return pool, volumes


def _check(plan: Plan, folder: Path, files: Sequence[Path]) -> None:
    """Raise if a port, the disk or the memory is not enough."""
    preflight.require_ports(
        [(plan.port, "--port"), (plan.label_studio_port, "--label-studio-port")]
    )
    size = sum(file.stat().st_size for file in files)
    own = not plan.label_studio
    missing = own and not installation.is_installed()
    preflight.require_disk(
        folder,
        preflight.SERVERS + preflight.COPIES * size + missing * preflight.LABEL_STUDIO,
    )
    preflight.require_memory()


@contextmanager
def _label_studio(
    plan: Plan, settings: Settings, folder: Path, memory: state.Memory
) -> Iterator[Studio]:
    """The Label Studio that is there, or one of our own while the block runs."""
    if plan.label_studio:
        yield Studio(plan.label_studio, settings.api_key)
        return
    venv = installation.environment()
    own = OwnLabelStudio(folder / "label-studio", port=memory.studio_port, venv=venv)
    with ExitStack() as started:
        if own.is_new:
            with progress.waiting("Making Label Studio's database"):
                own.prepare()
        with progress.waiting("Starting Label Studio"):
            started.enter_context(own)
        yield Studio(own.url, own.token, own)


def require_access(client: LabelStudio, url: str) -> None:
    """Raise, before anything is made, if Label Studio cannot be used or may not call us.

    Args:
        client: Label Studio.
        url: The address that it will call.

    Raises:
        FirstlightError: Says what to change.
    """
    client.server_version()
    client.check_token()
    checks_installation.backend_address(client, url)
    checks_installation.webhook_address(client, url)


def _as_settings(settings: Settings, studio: Studio, folder: Path) -> Settings:
    token = SecretStr(studio.token)
    return settings.model_copy(
        update={
            "label_studio_url": studio.url,
            "label_studio_api_key": token,
            "data_dir": folder,
        }
    )


def _backend(port: int | None, settings: Settings, studio: Studio, folder: Path) -> Backend:
    if studio.own:
        return Backend(studio.url, studio.token, folder, port=port)
    # It may have to be reached from another machine, with a password: as `start` would run it.
    env = own_variables(settings)
    return Backend(studio.url, studio.token, folder, port=port, env=env)


def own_variables(settings: Settings) -> dict[str, str]:
    """Return the variables, if set, that belong to one installation alone."""
    plain = (
        "artifacts_url",
        "backend_url",
        "basic_auth_user",
        "database_url",
        "host",
        "label_studio_public_url",
        "pages_url",
        "trusted_user_header",
    )
    secret = ("basic_auth_pass", "notify_url", "webhook_secret")
    env = {name.upper(): str(getattr(settings, name)) for name in plain}
    env |= {name.upper(): getattr(settings, name).get_secret_value() for name in secret}
    env["IMPORTS_DIR"] = str(settings.imports_dir or "")
    env["TRUSTED_PROXIES"] = ",".join(map(str, settings.trusted_proxies))
    return {name: value for name, value in env.items() if value}


def project_of(
    plan: Plan,
    client: LabelStudio,
    memory: state.Memory,
    folder: Path,
    kind: Kind,
) -> int:
    """Return the project of the folder: that of an earlier run if it is still there, or a new.

    Raises:
        ConfigError: If the project holds the files of the folder as another kind.
    """
    root = plan.folder.resolve() if plan.folder else folder
    known = memory.projects.get(str(root))
    if known is not None:
        try:
            title = client.project(known).title
        except NotFound:
            click.echo(f"Project {known} was deleted in Label Studio; making a new one.")
        else:
            memory.require_kind(root, kind)
            click.echo(f"Going on with project {known} ({title}).")
            return known
    named = root.parent if root.name == "images" else root
    title = f"{named.name[:40]} (Firstlight)" if plan.folder else "Firstlight demo"
    config = interface.of_slices(plan.labels, viewer=kind == "volumes")
    project = TaskImport(client).create_project(title, config)
    memory.with_project(root, project, kind).write(folder)
    return project


def _fill(
    plan: Plan,
    settings: Settings,
    client: LabelStudio,
    project: int,
    pool: list[Image],
    kind: Kind,
) -> None:
    """Import what the project does not have yet."""
    if plan.folder and kind == "volumes":
        import_volumes(settings, client, project, images.root_of(plan.folder))
    else:
        _import(client, project, pool, settings.max_image_pixels)


def import_volumes(settings: Settings, client: LabelStudio, project: int, source: Path) -> None:
    """Import a folder with volumes as `import` does; it makes nothing twice.

    Raises:
        ConfigError: If no file could be imported.
    """
    found = sources.contents(source, Reading(settings.max_image_pixels))
    for line in found.left_out:
        click.echo(f"Left out: {line}")
    tasks, folder = TaskImport(client), default_folder(settings, project)
    serving = Uploads(tasks, project, folder.resolve())
    target = Target(project, settings.label_studio_url, folder, client, tasks, serving)
    plan, names = ImportPlan(source, "percentile", "all"), Pseudonyms.of(settings)
    outcome = importing.fill(target, plan, found, names)
    if not outcome.volumes:
        raise ConfigError("None of the files can be imported.", f"{images.READ}.")


def _import(client: LabelStudio, project: int, pool: list[Image], max_pixels: int) -> None:
    """Upload the images that the project does not have yet; say which cannot be read."""
    there = uploaded(client, project)
    new = [image for image in pool if image.mark not in there]
    if not new:
        return
    tasks, unreadable = TaskImport(client), []
    with progress.counting("Importing the scans", len(new), "scans") as advance:
        for batch in images.batches(new, files=FILES_A_CALL, size=BYTES_A_CALL):
            files = {}
            for image in batch:
                try:
                    files[image.name] = image.content(max_pixels)
                except ImageError as error:
                    unreadable.append(f"{image.path}: {error}")
            if files:
                tasks.upload_tasks(project, files)
            advance(len(batch))
    for line in unreadable:
        click.echo(line)
    if len(unreadable) == len(pool):
        raise ConfigError("None of the images can be read.", f"{images.READ.capitalize()}.")


def uploaded(client: LabelStudio, project: int) -> set[str]:
    """Return the marks of the images that an earlier run uploaded."""
    addresses = (
        str(value)
        for page in client.tasks(project)
        for task in page
        for value in (task["data"] or {}).values()
    )
    return {match[1] for match in map(_MARK.search, addresses) if match}


def _say_what_next(studio: Studio, backend: Backend, project: int, folder: Path) -> None:
    variables = state.write_variables(folder, backend.variables)
    click.echo(f"Label Studio  {studio.url}/projects/{project}/data")
    if studio.own:
        click.echo(f"              login {studio.own.email}, password {studio.own.password}")
    click.echo(f"Project page  {backend.page(project)}")
    click.echo(f"Doctor        . {variables} && {PROGRAM} doctor {project}")
    click.echo(
        "\nFirst open Label Studio and press Label All Tasks: the scans come in the best order."
        "\nAfter five labels, each scan opens with a draft that you only correct."
        "\nCtrl-C stops everything."
    )


def _watch(studio: Studio, backend: Backend) -> NoReturn:
    while True:
        if studio.own:
            studio.own.check()
        backend.check()
        time.sleep(1)
