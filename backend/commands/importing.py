"""What the command `import` does: it reads the options, fills a project and reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from backend import PROGRAM
from backend.commands import connection
from backend.errors import ConfigError, FirstlightError
from backend.exchange import importing, slice_choice
from backend.exchange.importing import Outcome, Plan, Target
from backend.exchange.pseudonyms import Pseudonyms
from backend.exchange.serving import LocalFiles, Serving, Uploads
from backend.imaging import manifest, sources, windows
from backend.imaging.manifest import IMAGE, NEIGHBOURS, SLICE, VOLUME
from backend.imaging.sources import Contents, Reading
from backend.label_studio import labels
from backend.label_studio.client import LabelStudio
from backend.label_studio.labels import interface
from backend.label_studio.task_import import TaskImport
from backend.options import ProjectOptions, as_object, parse_options
from backend.settings import Settings

GROUPED = {"group_by": VOLUME, "slice_by": SLICE}  # the options of a project of volumes
_MOST_NOTES = 20  # that are shown


def run(settings: Settings, source: Path, asked: Mapping[str, Any]) -> bool:
    """Import a file or folder as the options ask; return whether nothing had to be left out.

    Raises:
        FirstlightError: If an option is wrong, or Label Studio or a folder fails.
    """
    windows.check(asked["window"])
    slice_choice.check(asked["slices"])
    slice_choice.check_slab(asked["slab"])
    keep = _keywords(_listed(asked["keep"]))
    found = sources.contents(source, Reading(settings.max_image_pixels, asked["frame"], keep))
    for line in found.left_out:
        click.echo(f"Left out: {line}", err=True)
    root = source if source.is_dir() else source.parent
    plan = Plan(root, asked["window"], asked["slices"], asked["keep_names"], asked["slab"])
    studio = LabelStudio(settings)
    tasks = TaskImport(studio)
    names = Pseudonyms.of(settings)  # before a project is made, because it may refuse
    project = asked["project"] or _new_project(tasks, asked, found)
    folder = _folder_of(settings, project, source, asked["out"])
    serving = _serving(tasks, project, folder, asked["local_files"])
    target = Target(project, settings.label_studio_url, folder, studio, tasks, serving)
    outcome = fill(target, plan, found, names)
    click.echo(_group_by_volume(settings, studio, project))
    return not outcome.problems


def fill(target: Target, plan: Plan, found: Contents, names: Pseudonyms) -> Outcome:
    """Import what was found in a source, with a progress bar, and say what was done.

    Raises:
        FirstlightError: If nobody could draw on the slices, or Label Studio or a folder fails.
    """
    for line in _config_notes(target.studio, target.project, found, slabs=plan.slab > 1):
        click.echo(line)
    with click.progressbar(found.sources, label="Volumes", file=sys.stderr) as bar:
        outcome = importing.run(target, plan, bar, names)
    _report(outcome, target)
    return outcome


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _keywords(names: Sequence[str]) -> Sequence[str]:
    """Return keywords of DICOM elements; refuse others, which would silently be left out."""
    if not names:
        return names
    from pydicom.datadict import tag_for_keyword  # slow to import

    if unknown := [name for name in names if tag_for_keyword(name) is None]:
        raise ConfigError(
            f"--keep names {', '.join(unknown)}, which no DICOM element is called.",
            "Use keywords of the standard, such as PatientAge,PatientSex.",
        )
    return names


def _new_project(tasks: TaskImport, asked: Mapping[str, Any], found: Contents) -> int:
    """Make the project of --new; return its id."""
    classes, title = _listed(asked["labels"]), asked["title"]
    if not classes:
        raise ConfigError(
            "A new project needs the names of its classes.", "Add for example --labels Lung,Heart."
        )
    if there := tasks.projects_titled(title):
        raise ConfigError(
            f"Label Studio has a project {there[0]} with the title {title}.",
            f"Go on with it by --project {there[0]}, or choose another title.",
        )
    viewer = not all(source.single for source in found.sources)
    slabs = asked["slab"] > 1
    config = interface.of_slabs(classes) if slabs else interface.of_slices(classes, viewer=viewer)
    project = tasks.create_project(title, config)
    click.echo(
        f"Project {project} ({title}) is made. After an interruption use --project {project}."
    )
    return project


def _config_notes(
    studio: LabelStudio, project: int, found: Contents, *, slabs: bool
) -> Iterator[str]:
    """Yield what should be added to the label config.

    Raises:
        ConfigError: If nobody could draw on the slices with it.
    """
    config = studio.project(project).label_config
    parsed = labels.parse(config)
    attribute, key = ("valueList", NEIGHBOURS) if slabs else ("value", IMAGE)
    if (parsed.paged, parsed.image_key) != (slabs, key):
        shown = f"{'pages of ' if parsed.paged else ''}${parsed.image_key}"
        raise ConfigError(
            f"The label config of project {project} shows {shown}, but the tasks hold "
            f"{'pages in ' if slabs else ''}${key}.",
            f'Set {attribute}="${key}" in its Image tag, or import into a new project.',
        )
    if slabs:
        return
    if not interface.has_viewer(config) and not all(one.single for one in found.sources):
        yield (
            f"The label config of project {project} does not show the neighbours of a slice. Add "
            f"below its Image tag: {interface.VIEWER}"
        )


def _folder_of(settings: Settings, project: int, source: Path, out: Path | None) -> Path:
    """Return the folder of the manifest.

    Raises:
        ConfigError: If it lies in the source.
    """
    folder = out or manifest.default_folder(settings, project)
    require_outside(folder, source, "--out")
    return folder


def require_outside(folder: Path, source: Path, option: str) -> None:
    """Raise if slices would be written into their source: the next import would read them.

    Args:
        folder: Holds the slices, or is above them.
        source: What is imported.
        option: Names another folder.

    Raises:
        ConfigError: If the folder lies in the source.
    """
    if folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"The slices would be written into {source}, which is imported.",
            f"Name a folder elsewhere by {option}.",
        )


def _serving(tasks: TaskImport, project: int, folder: Path, local_files: str) -> Serving:
    if not local_files:
        return Uploads(tasks, project, folder.resolve())
    here, _, there = local_files.partition(":")
    return LocalFiles(tasks, project, Path(here), there or str(Path(here).resolve()))


def _report(outcome: Outcome, target: Target) -> None:
    for line in outcome.notes[:_MOST_NOTES]:
        click.echo(line)
    if more := len(outcome.notes[_MOST_NOTES:]):
        click.echo(f"... and {more} more notes of this kind.")
    for line in outcome.problems:
        click.echo(f"Left out: {line}", err=True)
    click.echo(
        f"{outcome.volumes} volumes are in project {target.project}, with {outcome.tasks_made} new "
        f"tasks; the manifest is in {target.folder}."
    )
    if outcome.tasks_restored:
        click.echo(
            f"{outcome.tasks_restored} of these tasks were missing: an earlier import was "
            "interrupted, or somebody deleted them."
        )


def _group_by_volume(settings: Settings, studio: LabelStudio, project: int) -> str:
    """Set the missing options of `GROUPED` if this backend is connected; say the result.

    Another group stays, and so does a `slice_by` that was chosen, an empty one too.
    """
    wanted = json.dumps(GROUPED)
    try:
        ours = [e for e in studio.entries(project) if connection.is_at(e, settings.public_url)]
        if not ours:
            return f"Next: {PROGRAM} connect {project} --extra-params '{wanted}'"
        given = as_object(ours[0].get("extra_params"))
        options = parse_options(given)
        chosen = "slice_by" in given or options.slice_by
        if options.group_by and (chosen or options.group_by != VOLUME):
            return _said(f"The project's slices are grouped by {options.group_by}", options)
        new = {**given, **({"group_by": VOLUME} if chosen else GROUPED)}
        connection.register(settings, studio, project, json.dumps(new))
    except FirstlightError as error:
        return f"Set the options {wanted} in Settings > Model: {error}"
    return _said(f"The slices of project {project} are grouped by {VOLUME} now", parse_options(new))


def _said(grouped: str, options: ProjectOptions) -> str:
    if options.slice_by:
        return f"{grouped}, with {options.slice_by} as place."
    return (
        f"{grouped}, and slice_by is not set. Next: if each of these groups is one volume, set "
        f'"slice_by": "{SLICE}" in Settings > Model; the queue then asks for slices far from '
        "labelled ones first."
    )
