"""The cases of an export: single scans, or volumes put together from their slices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from backend.imaging.manifest import PAGES, SLICE, VOLUME, Manifest, Volume
from backend.label_studio import labels
from backend.label_studio.client import LabelStudio
from backend.storage import pages as addresses

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts this before the name of an upload
_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')  # in the name of a file, on any system
_LONGEST = 150  # characters of a name; endings and folders are added
_NUMBERS_A_SLAB = 100  # far more than it has pages


@dataclass(frozen=True)
class Scan:
    """A task as Label Studio lists it, or a page of a slab.

    Attributes:
        task: The task's id.
        url: Address of its picture.
        image: File name of the picture, as it was imported.
        changed: When the task or its annotations last changed.
        annotations: Number of submitted annotations, without skips.
        volume: Name of the volume that it is a slice of, "" if of none.
        index: Its place in the volume, from 0.
        page: Its place in the slab, from 0.
        pages: Addresses of all pages of the slab; none for a task of one picture.
    """

    task: int
    url: str
    image: str
    changed: str
    annotations: int
    volume: str = ""
    index: int = 0
    page: int = 0
    pages: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The address of its task, as rounds store it."""
        return addresses.joined(self.pages or (self.url,))

    @property
    def number(self) -> int:
        """A number that no other scan of the project has; without slabs, the task's id."""
        return self.task * _NUMBERS_A_SLAB + self.page if self.pages else self.task


@dataclass(frozen=True)
class Case:
    """What an export writes at once: a scan, or a volume with its slices.

    Attributes:
        name: Of its files, without ending; no other case has it.
        scans: One scan, or the slices of its tasks, by rising index.
        volume: Where the slices come from; None for a single scan.
    """

    name: str
    scans: tuple[Scan, ...]
    volume: Volume | None = None

    @property
    def is_labelled(self) -> bool:
        """Whether a scan has a submitted annotation."""
        return any(scan.annotations for scan in self.scans)


@dataclass
class Listing:
    """The cases of a project, and what is wrong with some of its tasks."""

    cases: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def scans_of(studio: LabelStudio, project: int, config: labels.LabelConfig) -> list[Scan]:
    """Return all tasks of a project, and each page of slabs, without their annotations."""
    tasks = (task for page in studio.tasks(project) for task in page)
    return [scan for task in tasks for scan in _scans(task, config)]


def single(scans: Iterable[Scan]) -> Listing:
    """Return every scan as a case of its own, named like its picture."""
    scans = list(scans)
    stems = [fit_name(PurePosixPath(scan.image).stem) or f"task-{scan.task}" for scan in scans]
    # File systems may not tell A.png from a.png.
    number = Counter(stem.lower() for stem in stems)
    taken = {stem for stem, times in number.items() if times == 1}
    listing = Listing()
    for stem, scan in zip(stems, scans, strict=True):
        is_alone = number[stem.lower()] == 1
        name = stem if is_alone else _unique_name(f"{stem}-task-{scan.task}", taken)
        listing.cases.append(Case(name, (scan,)))
    return listing


def volumes(scans: Iterable[Scan], manifest: Manifest) -> Listing:
    """Return the volumes of a project as cases. Tasks that fit into no volume are named."""
    listing, by_name = Listing(), {volume.name: volume for volume in manifest.volumes}
    slices: dict[str, list[Scan]] = {}
    for scan in scans:
        if scan.volume in by_name:
            slices.setdefault(scan.volume, []).append(scan)
        else:
            listing.problems.append(
                f"task {scan.task}: its volume {scan.volume!r} is not in the manifest; was the "
                "manifest exchanged, or the task made by hand?"
                if scan.volume
                else f"task {scan.task}: it is no slice of a volume (its data has no "
                f"{VOLUME} and {SLICE})"
            )
    listing.problems += [
        f"volume {name!r}: none of its slices has a task any more; it is left out"
        for name in sorted(by_name.keys() - slices.keys())
    ]
    taken: set[str] = set()
    for name in sorted(slices):
        volume = by_name[name]
        known = {each.index for each in volume.slices}
        fitting = [scan for scan in slices[name] if scan.index in known]
        listing.problems += _slice_problems(volume, slices[name], known)
        unique = _unique_name(fit_name(name) or "volume", taken)
        listing.cases.append(Case(unique, tuple(_one_a_slice(fitting)), volume))
    return listing


def fit_name(name: str) -> str:
    """Return a name that every file system accepts, "" if nothing is left of it."""
    return _UNFIT.sub("_", name).strip(" .")[:_LONGEST]


def _slice_problems(volume: Volume, scans: Sequence[Scan], known: set[int]) -> Iterator[str]:
    for scan in scans:
        if scan.index not in known:
            yield (
                f"task {scan.task}: the manifest has no slice {scan.index} of volume "
                f"{volume.name!r}"
            )
    there, tasks = {scan.index for scan in scans}, {s.index for s in volume.slices if s.is_task}
    if missing := tasks - there:
        yield (
            f"volume {volume.name!r}: {len(missing)} of its {len(tasks)} slices have no task any "
            "more; they count as unlabelled"
        )
    if len(scans) > len(there):
        yield (
            f"volume {volume.name!r}: {len(scans) - len(there)} of its slices have a second task; "
            "of each slice the labelled task that changed last counts"
        )


def _one_a_slice(scans: Sequence[Scan]) -> list[Scan]:
    by_index: dict[int, Scan] = {}
    for scan in sorted(scans, key=lambda scan: (bool(scan.annotations), scan.changed, scan.task)):
        by_index[scan.index] = scan
    return [by_index[index] for index in sorted(by_index)]


def _unique_name(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique.lower() in taken:
        number += 1
        unique = f"{name}-{number}"
    taken.add(unique.lower())
    return unique


def _scans(task: dict[str, Any], config: labels.LabelConfig) -> Iterator[Scan]:
    data = task.get("data") or {}
    urls = addresses.separate(labels.address(data, config))
    places = _places(data.get(PAGES) if config.paged else [data.get(SLICE)], len(urls))
    volume = data.get(VOLUME) if places else None
    for page, url in enumerate(urls):
        unnamed = f"task-{task['id']}" + (f"-page-{page}" if config.paged else "")
        yield Scan(
            task=int(task["id"]),
            url=url,
            image=image_name(url) or unnamed,
            changed=str(task["updated_at"]),
            annotations=int(task["total_annotations"]),
            volume=str(volume or ""),
            index=places[page] if places else 0,
            page=page,
            pages=tuple(urls) if config.paged else (),
        )


def _places(given: object, number: int) -> list[int]:
    """Return the places in the volume of so many pages; none if task data does not say them."""
    places = given if isinstance(given, list) else []
    known = all(isinstance(place, int) and not isinstance(place, bool) for place in places)
    return places if known and len(places) == number else []


def image_name(url: str) -> str:
    """Return the file name at the end of a picture's address, "" if it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme == "data":
        return ""
    [path] = parse_qs(parts.query).get("d", [])[:1] or [unquote(parts.path)]
    name = PurePosixPath(path).name
    return _UPLOADED.sub("", name) if "/data/upload/" in parts.path else name
