"""A table of the submitted annotations: time, origin of the regions, quality of the draft."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from backend.exchange.export.cases import Scan, scans_of
from backend.exchange.export.files import Files
from backend.exchange.export.masks import Annotation, submitted
from backend.exchange.export.sides import Sides
from backend.label_studio import labels
from backend.label_studio.answers import annotator
from backend.label_studio.client import TASKS_WITH_MASKS, LabelStudio
from backend.rounds.services import Services
from backend.storage.database import in_parts
from backend.storage.tables import DraftScore, Project

NAME = "annotations.csv"
COLUMNS = (
    *("task", "image", "volume", "slice", "group", "side", "annotation", "annotator"),
    *("created_at", "updated_at", "minutes", "ground_truth", "regions"),
    *("drafted", "drafted_and_changed", "drawn_by_hand", "draft_dice", "draft_version"),
)


def export_table(
    services: Services, project: Project, folder: Path, names: Mapping[int, str]
) -> Table:
    """Write the table of a project's submitted annotations into a folder, and return it.

    Args:
        services: Of this process.
        project: A connected project.
        folder: Gets the file NAME; an earlier one is replaced.
        names: The name of each annotator by Label Studio's id; others stay numbers.

    Raises:
        LabelStudioError: When Label Studio does not answer.
        StorageError: When the file cannot be written.
    """
    studio, store = services.studio, services.store
    config = labels.parse(studio.project(project.id).label_config)
    scores = {score.task_id: score for score in store.labels.draft_scores(project.id)}
    table = Table(studio, project.id, config, Sides(store, project.id), scores, names)
    scans = scans_of(studio, project.id, config)
    Files(folder).write(NAME, lambda file: table.write(file, scans))
    return table


@dataclass
class Table:
    """One line for each submitted annotation.

    Attributes:
        studio: Holds the annotations.
        project: Its id.
        config: The labelling interface; annotations that it cannot read are left out.
        sides: The group and side of each scan.
        drafts: The scores of drafts, by task id.
        names: The name of each annotator by Label Studio's id; others stay numbers.
        lines: Number of lines that were written.
        problems: The annotations that are left out, and why.
    """

    studio: LabelStudio
    project: int
    config: labels.LabelConfig
    sides: Sides
    drafts: Mapping[int, DraftScore]
    names: Mapping[int, str]
    lines: int = 0
    problems: list[str] = field(default_factory=list)

    def write(self, file: IO[bytes], scans: Sequence[Scan]) -> None:
        """Write the table; memory holds the annotations of a few tasks at a time."""
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        for pages, annotation in self._annotations(scans):
            table.writerow(self._row(pages, annotation))
            self.lines += 1
        text.detach()  # closing the wrapper would close the file

    def _annotations(self, scans: Sequence[Scan]) -> Iterator[tuple[list[Scan], Annotation]]:
        """Yield each annotation with the pages of its task."""
        labelled: dict[int, list[Scan]] = {}
        for scan in scans:
            if scan.annotations:
                labelled.setdefault(scan.task, []).append(scan)
        ids = list(labelled)
        for part in in_parts(ids, TASKS_WITH_MASKS):
            for each in submitted(self.studio.annotations(self.project, part)):
                pages, result = labelled[each["task"]], each["result"] or []
                try:
                    labels.check_pages(result, self.config, len(pages))
                    labels.stacked(result, self.config, size=(8, 8), pages=len(pages))
                except ValueError as error:
                    self.problems.append(
                        f"task {each['task']}: annotation {each['id']} is left out, because {error}"
                    )
                else:
                    yield pages, each

    def _row(self, pages: Sequence[Scan], annotation: Annotation) -> dict[str, Any]:
        scan = pages[len(pages) // 2]
        person = annotator(annotation)
        origins = labels.origins(annotation["result"] or [], self.config)
        return {
            "task": scan.task,
            "image": scan.image,
            "volume": scan.volume,
            "slice": " ".join(str(page.index) for page in pages if page.volume),
            "group": self.sides.group(scan.task),
            "side": self.sides.side(scan.task),
            "annotation": annotation["id"],
            "annotator": self.names.get(person, person),
            "created_at": annotation["created_at"],
            "updated_at": annotation["updated_at"],
            "minutes": _minutes(annotation.get("lead_time")),
            "ground_truth": int(bool(annotation["ground_truth"])),
            "regions": sum(origins.values()),
            "drafted": origins["kept"],
            "drafted_and_changed": origins["changed"],
            "drawn_by_hand": origins["manual"],
            **self._draft(scan, annotation),
        }

    def _draft(self, scan: Scan, annotation: Annotation) -> dict[str, Any]:
        """Return the score of the draft that was shown; scored is a scan's first annotation."""
        score = self.drafts.get(scan.task)
        if score is None or score.created_at != annotation["created_at"]:
            return {"draft_dice": "", "draft_version": ""}
        return {"draft_dice": f"{score.dice:.4f}", "draft_version": score.version}


def _minutes(seconds: object) -> str:
    return f"{seconds / 60:.3f}" if isinstance(seconds, int | float) else ""
