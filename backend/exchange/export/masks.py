"""The masks of one scan: those that people submitted, merged as asked, or the model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from backend.exchange.export.cases import Scan
from backend.label_studio import labels
from backend.label_studio.answers import annotator
from backend.label_studio.moments import moment

Mask = npt.NDArray[np.bool_]
Annotation = dict[str, Any]  # as Label Studio lists it
Merging = Literal["majority", "latest", "each"]

ANNOTATORS = "annotators"  # the origin of submitted masks; the model's have the name of its version


@dataclass
class Drawn:
    """The masks of one scan from one origin.

    Attributes:
        scan: The scan.
        size: Height and width of its picture.
        origin: ANNOTATORS, or the version of the model.
        planes: The mask of each class, shape `size`, one at a time. They can be read once.
        annotations: Ids of the annotations behind them.
        annotators: Label Studio's ids of the people behind them.
        pixels: Number of pixels of each class that was read so far.
        overlap: Number of pixels that more than one class covers, of the classes read so far.
    """

    scan: Scan
    size: tuple[int, int]
    origin: str
    planes: Iterator[Mask]
    annotations: tuple[int, ...] = ()
    annotators: tuple[int, ...] = ()
    pixels: list[int] = field(default_factory=list)
    overlap: int = 0

    def classes(self) -> Iterator[Mask]:
        """Yield the mask of each class, and count what they cover."""
        covered = np.zeros(self.size, bool)
        for plane in self.planes:
            self.pixels.append(int(np.count_nonzero(plane)))
            self.overlap += int(np.count_nonzero(covered & plane))
            covered |= plane
            yield plane


@dataclass(frozen=True)
class Submission:
    """A submitted annotation that can be read, and the mask of each class; to be read once."""

    annotation: Annotation
    planes: Iterator[Mask]

    @property
    def annotator(self) -> int:
        """Label Studio's id of the person who made it, 0 if it names nobody."""
        return annotator(self.annotation)


def submitted(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Return the annotations that count: no skips. Label Studio lists drafts elsewhere."""
    return [each for each in annotations if not each["was_cancelled"]]


def read(
    scan: Scan,
    annotations: Iterable[Annotation],
    config: labels.LabelConfig,
    size: tuple[int, int],
) -> tuple[list[Submission], list[str]]:
    """Return the annotations whose masks can be read, and why the others are left out.

    Args:
        scan: The scan, or the page of a slab.
        annotations: Of its task.
        config: The labelling interface.
        size: Height and width of the picture; a mask of another size was drawn on another picture.
    """
    kept, problems = [], []
    for each in annotations:
        result = each["result"] or []
        try:
            _check_size(result, size)
            labels.check_pages(result, config, len(scan.pages) or 1)
            planes = labels.planes(result, config, size=size, page=scan.page)
            kept.append(Submission(each, planes))
        except ValueError as error:
            problems.append(
                f"task {each['task']}: annotation {each['id']} is left out, because {error}"
            )
    return kept, problems


def merged(scan: Scan, submissions: Sequence[Submission], size: tuple[int, int]) -> Drawn:
    """Return the pixels of each class on which more than half of the annotations agree."""
    drawn = zip(*(each.planes for each in submissions), strict=True)
    return Drawn(
        scan=scan,
        size=size,
        origin=ANNOTATORS,
        planes=(labels.merge(plane[None] for plane in planes)[0] for planes in drawn),
        annotations=tuple(int(each.annotation["id"]) for each in submissions),
        annotators=tuple(dict.fromkeys(each.annotator for each in submissions)),
    )


def versions(submissions: Sequence[Submission], merging: Merging) -> dict[str, list[Submission]]:
    """Return the annotations to merge, by the folder that their masks belong into.

    Args:
        submissions: Those of one scan.
        merging: `majority` of all, the `latest` one, or the latest one of `each` annotator.
    """
    if not submissions:
        return {}
    if merging == "majority":
        return {"": list(submissions)}
    by_age = sorted(submissions, key=_age)
    if merging == "latest":
        return {"": by_age[-1:]}
    return {folder_of(each.annotator): [each] for each in by_age}


def _age(submission: Submission) -> tuple[float, int]:
    return moment(submission.annotation["updated_at"]), int(submission.annotation["id"])


def folder_of(person: int) -> str:
    """Return the folder of the masks of one annotator."""
    return f"annotator-{person}"


def drawn_size(annotations: Iterable[Annotation]) -> tuple[int, int] | None:
    """Return the size of the picture that the first region was drawn on, None without a region."""
    sizes = (_size(region) for each in annotations for region in each["result"] or [])
    return next((size for size in sizes if size), None)


def _check_size(result: Sequence[Any], size: tuple[int, int]) -> None:
    for index, region in enumerate(result):
        found = _size(region)
        if found and found != size:
            raise ValueError(
                f"region {index} was drawn on a picture of {found[0]} x {found[1]} pixels, but "
                f"the picture has {size[0]} x {size[1]} (height x width)"
            )


def _size(region: Any) -> tuple[int, int] | None:
    if not isinstance(region, dict):
        return None
    height, width = region.get("original_height"), region.get("original_width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
