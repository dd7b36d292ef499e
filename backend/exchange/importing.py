"""Volumes to tasks: pictures of slices, the manifest, and Label Studio's tasks, in this order.

The manifest is saved before the tasks of its volumes are made, so each task finds its voxels. What
a kill interrupts is done again by the next import of the same source: pictures, uploads and tasks
that are there already are found by their names and not made twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from backend.errors import ConfigError, FirstlightError
from backend.exchange import slice_choice
from backend.exchange.pictures import Writer
from backend.exchange.pseudonyms import Pseudonyms
from backend.exchange.serving import Serving
from backend.exchange.slice_choice import Slab
from backend.imaging import manifest as manifests
from backend.imaging.manifest import IMAGE, NEIGHBOURS, PAGES, SLICE, VOLUME, Manifest
from backend.imaging.sources import Source
from backend.imaging.volumes import Volume
from backend.label_studio.client import LabelStudio
from backend.label_studio.task_import import TaskImport

_BATCH = 100  # slices at least that are sent to Label Studio at once
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
# Label Studio cuts paths of uploads at 100 characters; before and after the name stand up to 50:
# upload/PROJECT/12345678-NAME-FRAME-PSEUDONYM_0000.png
_LONGEST_NAME = 50

Row = dict[str, Any]  # the data of a task


@dataclass(frozen=True)
class Plan:
    """What an import was asked to do.

    Attributes:
        root: The folder that is imported, or that of the file.
        window: A preset, `percentile` or LEVEL/WIDTH.
        slices: `all`, `tissue` or every:N.
        slab: Slices of a task at most; 1 for tasks of single slices.
        keep_names: Whether volumes go by the names of their files instead of pseudonyms.
    """

    root: Path
    window: str
    slices: str
    keep_names: bool = False
    slab: int = 1


@dataclass
class Outcome:
    """What an import did.

    Attributes:
        volumes: Volumes that are complete in the project now.
        tasks_made: Tasks that this import made.
        tasks_restored: Those among them that an earlier import was to make too.
        notes: What a person should know of volumes, a sentence each.
        problems: Why volumes were left out, a sentence each.
    """

    volumes: int = 0
    tasks_made: int = 0
    tasks_restored: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """The project that is filled.

    Attributes:
        project: Its id.
        url: The address of Label Studio.
        folder: Holds the manifest.
        studio: Label Studio, to read from.
        tasks: Label Studio, to make tasks in.
        serving: How it gets the pictures.
    """

    project: int
    url: str
    folder: Path
    studio: LabelStudio
    tasks: TaskImport
    serving: Serving


def run(target: Target, plan: Plan, sources: Iterable[Source], names: Pseudonyms) -> Outcome:
    """Import volumes one after the other; a volume that cannot be read is left out and named.

    Raises:
        ConfigError: If another import runs, the folder holds that of another project or window or
            was moved, or the project's tasks have slabs of another size.
        LabelStudioError: If Label Studio does not take pictures or tasks; the next import of the
            same source goes on.
    """
    folder = target.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            return _Import(target, plan, names, _manifest(target, plan, folder)).run(sources)
    except Timeout:
        raise ConfigError(
            f"Another import into project {target.project} runs.", "Wait until it ends."
        ) from None


class _Import:
    """One run of an import: what is known of the project, and what waits to be sent."""

    def __init__(self, target: Target, plan: Plan, names: Pseudonyms, manifest: Manifest) -> None:
        self._target = target
        self._plan = plan
        self._names = names
        self._manifest = manifest
        self._entries = {volume.name: volume for volume in manifest.volumes}
        self._earlier = {_content(volume): volume.name for volume in manifest.volumes}
        self._wanted = {
            (volume.name, manifests.middle(pages))
            for volume in manifest.volumes
            for pages in volume.tasks
        }
        self._tasks = _tasks_of(target)
        # Pages of the project's longest task, if its manifest is gone.
        self._longest = 0 if manifest.volumes else max(map(len, self._tasks.values()), default=0)
        self._check_longest()
        # Identity and title of the volumes of this run, by their names.
        self._seen: dict[str, tuple[str, str]] = {}
        self._waiting: list[tuple[manifests.Volume, Mapping[str, str]]] = []
        folder = target.serving.folder
        self._writer = Writer(plan.root, folder, plan.window, plan.slices, plan.slab)
        self._outcome = Outcome()

    def run(self, sources: Iterable[Source]) -> Outcome:
        for source in sources:
            try:
                self._prepare(source.open())
            except FirstlightError as error:
                self._outcome.problems.append(str(error))
            except OSError as error:
                self._outcome.problems.append(f"{source.path} cannot be read ({error.strerror}).")
            # Each time the whole manifest is written: seldom, when it is long.
            if sum(len(entry.slices) for entry, _ in self._waiting) >= self._batch():
                self._send()
        self._send()
        return self._outcome

    def _check_longest(self) -> None:
        """Raise if tasks whose manifest is gone are of slabs of another size."""
        # Two tasks of a volume: neither is short because its volume is.
        several = Counter(volume for volume, _ in self._tasks)
        cut = any(
            several[volume] > 1 and len(pages) == self._longest
            for (volume, _), pages in self._tasks.items()
        )
        if self._longest > self._plan.slab or (self._is_shorter() and cut):
            raise self._other_slabs()

    def _is_shorter(self) -> bool:
        # A slab of an even number of pages was cut by an end of its volume.
        return self._longest > 0 and self._longest | 1 < self._plan.slab

    def _other_slabs(self) -> ConfigError:
        project, pages = self._target.project, "page" if self._longest == 1 else "pages"
        return ConfigError(
            f"The manifest of project {project} is gone, and its tasks have at most "
            f"{self._longest} {pages}, but --slab is {self._plan.slab}: slices would be drawn "
            "twice.",
            f"Import with --slab {self._longest | 1}, or into a new project by --new.",
        )

    def _batch(self) -> int:
        return max(_BATCH, sum(len(volume.slices) for volume in self._entries.values()) // 10)

    def _prepare(self, volume: Volume) -> None:
        """Write a volume's pictures, unless its name stands for something else already."""
        name = self._name(volume)
        if name in self._seen:
            self._outcome.notes.append(
                f"{volume.title} is equal to {self._seen[name][1]}; it is imported once."
            )
            return
        self._seen[name] = volume.identity, volume.title
        old = self._entries.get(name)
        if old is not None and old.source_hash != volume.digest:
            raise ConfigError(
                f"{volume.title} has other files than when it was imported; nothing of it changed "
                "in the project.",
                "Import it into a new project, or put the old files back.",
            )
        known = self._tasks_of_another_manifest(name, old)
        if self._is_shorter() and any({*pages} < {*volume.present} for pages in known):
            raise self._other_slabs()
        entry = self._writer.write(volume, name, old, known)
        if not entry.tasks:
            raise ConfigError(
                f"{volume.title} has no slice that --slices {self._plan.slices} chooses.",
                "Import it with --slices all.",
            )
        self._outcome.notes += volume.notes
        if known:
            self._outcome.notes.append(
                f"{sum(map(len, known))} slices of {volume.title} are in tasks already, of an "
                "import whose manifest is not in this folder. They keep the pictures that they "
                "have."
            )
        self._waiting.append((entry, volume.tags))

    def _tasks_of_another_manifest(self, name: str, old: manifests.Volume | None) -> list[Slab]:
        """Return the slices of each task of a volume, if the manifest lacks the volume."""
        return [] if old else [p for (volume, _), p in self._tasks.items() if volume == name]

    def _name(self, volume: Volume) -> str:
        content = volume.digest, volume.frame, manifests.rows_of(volume.affine)
        if content in self._earlier:  # also if it is called otherwise now
            return self._earlier[content]
        pseudonym = self._names.name("volume", volume.identity)
        if not self._plan.keep_names:
            return pseudonym
        frame = "" if volume.frame is None else f"-{volume.frame}"
        title = _UNSAFE.sub("-", volume.title)
        name = f"{title[:_LONGEST_NAME]}{frame}"
        taken = name in self._seen and self._seen[name][0] != volume.identity
        # A name that was cut may be that of another volume, of this import or of a later one.
        ambiguous = taken or len(title) > _LONGEST_NAME
        return f"{name}-{pseudonym[-6:]}" if ambiguous else name

    def _send(self) -> None:
        """Give Label Studio the waiting pictures, save the manifest, then make the tasks."""
        waiting, self._waiting = self._waiting, []
        # Somebody who deleted tasks may have deleted their uploads too: ask for these again. A
        # volume whose manifest is gone has its tasks, and lacks the addresses of its pictures.
        asked = [
            one.picture
            for entry, tags in waiting
            if self._missing(entry, tags) or not all(each.url for each in entry.slices)
            for one in entry.slices
        ]
        addresses = self._target.serving.addresses(asked) if asked else {}
        sent = [(_addressed(entry, addresses), tags) for entry, tags in waiting]
        if changed := {e.name: e for e, _ in sent if self._entries.get(e.name) != e}:
            self._entries |= changed
            manifests.save(
                self._manifest.model_copy(update={"volumes": tuple(self._entries.values())})
            )
        rows = [row for entry, tags in sent for row in self._missing(entry, tags)]
        self._target.tasks.add_tasks(self._target.project, rows)
        self._outcome.volumes += len(sent)
        self._outcome.tasks_made += len(rows)
        self._outcome.tasks_restored += sum(
            (row[VOLUME], row[SLICE]) in self._wanted for row in rows
        )

    def _missing(self, entry: manifests.Volume, tags: Mapping[str, str]) -> list[Row]:
        """Return the data of a volume's tasks that the project does not have."""
        urls = {one.index: one.url for one in entry.slices}
        return [
            {
                **tags,
                VOLUME: entry.name,
                SLICE: manifests.middle(pages),
                **_shown(pages, urls, slab=bool(entry.slabs)),
            }
            for pages in entry.tasks
            if (entry.name, manifests.middle(pages)) not in self._tasks
        ]


def _shown(pages: Sequence[int], urls: Mapping[int, str], *, slab: bool) -> Row:
    """Return the task data of the pictures that a task shows."""
    if slab:
        return {NEIGHBOURS: [urls[index] for index in pages], PAGES: list(pages)}
    [own] = pages
    return {
        IMAGE: urls[own],
        NEIGHBOURS: [urls[index] for index in slice_choice.beside(own, [*urls])],
    }


def _content(entry: manifests.Volume) -> tuple[Any, ...]:
    """Return what tells a volume from all others, whatever its name."""
    return entry.source_hash, entry.frame, entry.affine


def _addressed(entry: manifests.Volume, addresses: Mapping[str, str]) -> manifests.Volume:
    slices = tuple(
        one.model_copy(update={"url": addresses.get(one.picture, one.url)}) for one in entry.slices
    )
    return entry.model_copy(update={"slices": slices})


def _tasks_of(target: Target) -> dict[tuple[str, int], Slab]:
    """Return the slices of each task that the project has, by its volume and own slice."""
    return {
        (str(data.get(VOLUME)), data[SLICE]): _pages(data)
        for page in target.studio.tasks(target.project)
        for data in (task["data"] or {} for task in page)
        if isinstance(data.get(SLICE), int)
    }


def _pages(data: Row) -> Slab:
    """Return the slices that people draw on in a task: its own, or the pages of a slab."""
    pages = data.get(PAGES)
    whole = isinstance(pages, list) and all(isinstance(page, int) for page in pages)
    return tuple(pages) if pages and whole else (data[SLICE],)


def _manifest(target: Target, plan: Plan, folder: Path) -> Manifest:
    """Return the manifest of earlier imports into the project, else a new one."""
    pictures = str(target.serving.folder.resolve())
    if not (folder / manifests.MANIFEST).exists():
        return Manifest(
            project=target.project,
            label_studio=target.url,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            window=plan.window,
            slab=plan.slab,
            folder=str(folder),
            pictures=pictures,
        )
    manifest = manifests.load(folder)
    manifests.check_unmoved(manifest, folder)
    if (manifest.project, manifest.label_studio) != (target.project, target.url):
        raise ConfigError(
            f"{folder} holds the import of project {manifest.project} at {manifest.label_studio}, "
            f"not of project {target.project} at {target.url}.",
            "Name another folder by --out.",
        )
    if manifest.window != plan.window:
        raise ConfigError(
            f"Project {target.project} was imported with the window {manifest.window}, not "
            f"{plan.window}: other pictures would appear below what people drew.",
            f"Import with --window {manifest.window}, or into a new project by --new.",
        )
    if manifest.slab != plan.slab:
        raise ConfigError(
            f"Project {target.project} was imported with --slab {manifest.slab}, not {plan.slab}: "
            "slices would be drawn twice.",
            f"Import with --slab {manifest.slab}, or into a new project by --new.",
        )
    if manifest.pictures != pictures:
        raise ConfigError(
            f"The slices of project {target.project} lie in {manifest.pictures}, not in "
            f"{pictures}.",
            "Import with the same --local-files and --out as before.",
        )
    return manifest
