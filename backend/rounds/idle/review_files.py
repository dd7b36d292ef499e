"""The files of a review: one for each fold, of which a part can be read.

A file is a zip archive. One member holds the suspicions of all its scans, and each scan has a
member with the regions that a network expects, because masks are long and a picture needs one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

from backend.storage.artifacts import DAMAGED, REVIEWS, ProjectFiles
from backend.storage.records import ReviewedScan

Regions = list[dict[str, Any]]

_SCANS = "scans"  # the member with the suspicions; the others are named after their tasks


def name_of(review: str, fold: int) -> str:
    """Return the name of the file of a fold."""
    return f"{REVIEWS}/{review}-{fold}.zip"


def write(
    files: ProjectFiles, name: str, scans: Iterable[ReviewedScan], regions: Mapping[int, Regions]
) -> None:
    """Write the suspicions of a fold, and the regions that a network expects, by task id."""

    def save(file: IO[bytes]) -> None:
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            archive.writestr(_SCANS, json.dumps([scan.written() for scan in scans]))
            for task, of_scan in regions.items():
                archive.writestr(str(task), json.dumps(of_scan))

    files.write(name, save)


def scans(files: ProjectFiles, name: str) -> list[ReviewedScan] | None:
    """Return the suspicions of a fold; None if the file is missing or damaged."""

    def load(path: Path) -> list[ReviewedScan]:
        with ZipFile(path) as archive:
            return [ReviewedScan.model_validate(each) for each in json.loads(archive.read(_SCANS))]

    try:
        return files.read(name, load)
    except (FileNotFoundError, *DAMAGED):
        return None


def regions(
    files: ProjectFiles, name: str, tasks: Collection[int] | None = None
) -> dict[int, Regions]:
    """Return the regions that a network expects, by task id; empty of a missing or damaged file.

    Args:
        files: The project's.
        name: Of the file.
        tasks: Only these are read; None for all.
    """

    def load(path: Path) -> dict[int, Regions]:
        with ZipFile(path) as archive:
            there = {int(member) for member in archive.namelist() if member != _SCANS}
            wanted = there if tasks is None else there.intersection(tasks)
            return {task: json.loads(archive.read(str(task))) for task in sorted(wanted)}

    try:
        return files.read(name, load)
    except (FileNotFoundError, *DAMAGED):
        return {}


def erase(files: ProjectFiles, name: str, tasks: Collection[int]) -> None:
    """Remove scans from a file; a damaged file goes, because it may hold them too."""
    of_fold = scans(files, name)
    if of_fold is None:
        files.remove(name)
        return
    left = [scan for scan in of_fold if scan.task not in tasks]
    if len(left) < len(of_fold):
        known = regions(files, name, [scan.task for scan in left])
        write(files, name, left, known)
