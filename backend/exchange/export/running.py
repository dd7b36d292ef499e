"""Export the masks of a project into a folder; the same command later writes only what changed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from backend import PROGRAM, __version__
from backend.errors import ConfigError, ExportError, ImageError
from backend.exchange.export import cases as listed
from backend.exchange.export.cases import Case, Listing, Scan
from backend.exchange.export.files import Files
from backend.exchange.export.formats import REGISTRY, Context, Written
from backend.exchange.export.journal import Entry, Journal
from backend.exchange.export.masks import (
    Annotation,
    Drawn,
    Merging,
    drawn_size,
    merged,
    read,
    submitted,
    versions,
)
from backend.exchange.export.sides import TRAINING, VALIDATION, Sides
from backend.imaging import manifest as manifests
from backend.label_studio import labels
from backend.rounds.services import Services
from backend.storage.artifacts import digest
from backend.storage.tables import Project

if TYPE_CHECKING:
    from backend.exchange.export.model_masks import ModelMasks

RULES = 3  # raised when the same labels give other files than before
PART = 50  # scans whose annotations are in memory at once; a volume is never divided
_LONGEST = 1_000_000  # pixels of a picture's side: never shrink it
_INDEX = ("case", "task", "image", "volume", "slice", "side", "origin", "annotations", "annotators")


@dataclass(frozen=True)
class Choice:
    """What is exported, and how.

    Attributes:
        format: A name of the registry.
        masks: Those that people submitted, the model's for every scan, or both: the model's where
            nobody submitted one.
        merging: How several annotations of one scan are merged.
    """

    format: str
    masks: Literal["submitted", "model", "both"] = "submitted"
    merging: Merging = "majority"


@dataclass
class Report:
    """What an export did.

    Attributes:
        cases: Cases in the folder now, each with the scans whose masks were written.
        scans: Number of these scans.
        written: Cases that this run wrote.
        removed: Cases that this run deleted, because they are no longer labelled.
        overlaps: Scans with pixels of several classes.
        problems: What is left out, and why.
        hints: What a person should know of the format.
    """

    cases: int = 0
    scans: int = 0
    written: int = 0
    removed: int = 0
    overlaps: int = 0
    problems: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


class Export:
    """One export of one project.

    Args:
        services: Of this process.
        project: A connected project.
        choice: What is exported.
        folder: Where the files go: new, empty, or of an earlier export of the same choice.
        imported: The folder with the manifest of the project's volumes.
        names: The name of each annotator by Label Studio's id; others stay numbers.
    """

    def __init__(
        self,
        services: Services,
        project: Project,
        choice: Choice,
        folder: Path,
        imported: Path | None = None,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self._services = services
        self._project = project
        self._choice = choice
        self._folder = folder
        self._imported = imported or manifests.default_folder(services.settings, project.id)
        self._names = names or {}
        self._sides = Sides(services.store, project.id)
        info = services.studio.project(project.id)
        self._config = labels.parse(info.label_config)
        context = Context(info.title, self._config.labels, self._picture)
        self._format = REGISTRY[choice.format](context)
        self._model = self._model_masks() if choice.masks != "submitted" else None
        self._title = info.title

    def run(self, on_scans: Callable[[int, int], object] = lambda done, of: None) -> Report:
        """Write the files and return what was done.

        Args:
            on_scans: Called with the number of scans done and of all scans that are written.

        Raises:
            ConfigError: If the project, its manifest or the folder does not allow this export.
            LabelStudioError: When Label Studio does not answer.
            StorageError: When a file cannot be written.
        """
        listing = self._listing()
        report = Report(problems=listing.problems)
        wanted = [case for case in listing.cases if self._is_wanted(case)]
        with Journal(self._folder, self._purpose) as journal:
            todo = [case for case in wanted if not journal.is_written(case.name, self._key(case))]
            changed = {case.name for case in todo}
            kept = {case.name for case in wanted} - changed
            if self._model:
                self._model.start(scan for case in todo for scan in case.scans if self._draws(scan))
            done, total = 0, sum(len(case.scans) for case in todo)
            for part in _parts(todo):
                kept |= self._write(part, journal, report)
                journal.commit()
                done += sum(len(case.scans) for case in part)
                on_scans(done, total)
            report.removed = journal.keep_only(kept)
            self._finish(journal, report)
        report.problems = list(dict.fromkeys(report.problems))  # pages of a slab share theirs
        return report

    # -- what is exported -------------------------------------------------------------------------

    @property
    def _purpose(self) -> dict[str, Any]:
        choice, studio = self._choice, self._services.settings.label_studio_url
        return {"label_studio": studio, "project": self._project.id, **vars(choice)}

    def _listing(self) -> Listing:
        scans = listed.scans_of(self._services.studio, self._project.id, self._config)
        if self._format.by_volume and any(scan.volume for scan in scans):
            manifest = manifests.load(self._imported)
            if manifest.project != self._project.id:
                raise ConfigError(
                    f"The manifest in {self._imported} is of project {manifest.project}, expected "
                    f"project {self._project.id}.",
                    "Name the folder of this project's import with --manifest.",
                )
            flat = all(volume.kind == "picture" for volume in manifest.volumes)
            if not (flat and self._format.by_scan):
                return listed.volumes(scans, manifest)
        if self._format.by_scan:
            return listed.single(scans)
        raise ConfigError(
            f"Project {self._project.id} has no volumes, which the format {self._choice.format} "
            "needs.",
            f"Export as png, coco, yolo or nnunet, or import volumes with `{PROGRAM} import`.",
        )

    def _is_wanted(self, case: Case) -> bool:
        return self._choice.masks != "submitted" or case.is_labelled

    def _reads(self, scan: Scan) -> bool:
        """Return whether the submitted annotations of a scan are exported."""
        return self._choice.masks != "model" and scan.annotations > 0

    def _draws(self, scan: Scan) -> bool:
        """Return whether the model draws the masks of a scan."""
        return self._choice.masks != "submitted" and not self._reads(scan)

    def _key(self, case: Case) -> str:
        """Return a digest of all that a case's files follow from."""
        model = self._model.key if self._model and any(map(self._draws, case.scans)) else ""
        return digest(
            RULES,
            [vars(scan) for scan in case.scans],
            case.volume.model_dump(mode="json") if case.volume else None,
            self._config.labels,
            sorted(self._config.rows.items()),
            self._is_validation(case),
            model,
        )

    def _is_validation(self, case: Case) -> bool:
        """Return whether a case is held out: a volume is, as soon as one of its slices is."""
        return any(self._sides.is_validation(scan.task) for scan in case.scans)

    def _model_masks(self) -> ModelMasks:
        from backend.exchange.export.model_masks import ModelMasks  # loads torch

        return ModelMasks(self._services, self._project, self._config.labels)

    # -- the cases --------------------------------------------------------------------------------

    def _write(self, part: Sequence[Case], journal: Journal, report: Report) -> set[str]:
        """Write some cases; return the names of those that have files now."""
        scans = [scan for case in part for scan in case.scans]
        found: dict[int, list[Annotation]] = {}
        tasks = list(dict.fromkeys(scan.task for scan in scans if self._reads(scan)))
        for annotation in submitted(self._services.studio.annotations(self._project.id, tasks)):
            found.setdefault(annotation["task"], []).append(annotation)
        sizes = self._known_sizes(scans)
        names = set()
        for case in part:
            problems: list[str] = []
            try:
                by_folder = self._drawn(case, found, sizes, problems)
                if by_folder:
                    self._write_case(case, by_folder, problems, journal)
                    names.add(case.name)
                    report.written += 1
                else:
                    report.problems += problems
            except (ExportError, ImageError) as error:
                report.problems += [*problems, f"{case.name} is left out: {error}"]
        return names

    def _drawn(
        self,
        case: Case,
        found: Mapping[int, list[Annotation]],
        sizes: Mapping[int, tuple[int, int]],
        problems: list[str],
    ) -> dict[str, list[Drawn]]:
        """Return the masks of a case's scans, by the folder that they are written into."""
        by_folder: dict[str, list[Drawn]] = {}
        for scan in case.scans:
            annotations = found.get(scan.task, [])
            if annotations:
                size = self._size(case, scan, annotations, sizes)
                submissions, unread = read(scan, annotations, self._config, size)
                problems += unread
                for folder, some in versions(submissions, self._choice.merging).items():
                    by_folder.setdefault(folder, []).append(merged(scan, some, size))
            elif self._model and self._draws(scan):
                drawn = self._model.take(scan)
                if drawn is None:
                    problems.append(f"task {scan.task}: its picture cannot be read")
                elif case.volume and drawn.size != case.volume.plane.shown_shape:
                    problems.append(f"task {scan.task}: its picture is not the imported one")
                else:
                    by_folder.setdefault("", []).append(drawn)
        return by_folder

    def _write_case(
        self,
        case: Case,
        by_folder: Mapping[str, Sequence[Drawn]],
        problems: Sequence[str],
        journal: Journal,
    ) -> None:
        notes, files = {}, {}
        validation = self._is_validation(case)
        for folder, drawn in by_folder.items():
            inside = Files(self._folder, folder)
            note = self._format.write(case, drawn, validation, inside)
            files.update(inside.written)
            rows = [self._row(each) for each in drawn]
            overlaps = sum(each.overlap > 0 for each in drawn)
            notes[folder] = dict(note=note, rows=rows, overlaps=overlaps, validation=validation)
        journal.save(Entry(case.name, self._key(case), notes, problems), files)

    def _row(self, drawn: Drawn) -> dict[str, Any]:
        scan, config = drawn.scan, self._config
        held = [name for name, n in zip(config.labels, drawn.pixels, strict=True) if n]
        return {
            "task": scan.task,
            "image": scan.image,
            "volume": scan.volume,
            "slice": scan.index if scan.volume else "",
            "origin": drawn.origin,
            "annotations": " ".join(map(str, drawn.annotations)),
            "annotators": list(drawn.annotators),
            "labels": held,
        }

    # -- pictures and their sizes -----------------------------------------------------------------

    def _known_sizes(self, scans: Sequence[Scan]) -> dict[int, tuple[int, int]]:
        """Return the sizes of pictures that a round has read, by task id."""
        urls = {scan.task: scan.address for scan in scans}
        tasks = self._services.store.scans.some(self._project.id, list(urls))
        return {
            task.id: (task.height, task.width)
            for task in tasks
            if task.height and task.url == urls[task.id]
        }

    def _size(
        self,
        case: Case,
        scan: Scan,
        annotations: Sequence[Annotation],
        known: Mapping[int, tuple[int, int]],
    ) -> tuple[int, int]:
        if case.volume:
            return case.volume.plane.shown_shape
        size = known.get(scan.task) or drawn_size(annotations)
        # A region may claim any size; a picture has at most so many pixels.
        if size is None or not 0 < size[0] * size[1] <= self._services.settings.max_image_pixels:
            height, width = self._picture(scan).shape[:2]
            size = height, width
        return size

    def _picture(self, scan: Scan) -> npt.NDArray[np.uint8]:
        data = self._services.source_of(self._project).fetch(scan.url, scan.task)
        most = self._services.settings.max_image_pixels
        return self._services.decoders.decode(data, longest=_LONGEST, max_pixels=most).small

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self, journal: Journal, report: Report) -> None:
        """Write the files that belong to all cases, and complete the report."""
        folders: set[str] = set()
        for entry in journal.entries():
            folders |= entry.notes.keys()
            report.cases += 1
            report.scans += max(len(note["rows"]) for note in entry.notes.values())
            report.overlaps += sum(note["overlaps"] for note in entry.notes.values())
            report.problems += entry.problems
        hints: dict[str, None] = {}
        written: set[str] = set()
        for folder in sorted(folders or {""}):
            files = Files(self._folder, folder)
            hints |= dict.fromkeys(self._format.finish(_Cases(journal, folder), files))
            self._write_index(_Cases(journal, folder), files)
            journal.save_common(files.written)
            written |= files.written.keys()
        journal.keep_common(written)
        report.hints = list(hints)
        if report.overlaps and self._format.one_class:
            report.hints.append(
                f"{report.overlaps} scans have pixels of several classes. There the class that "
                "stands last in the labelling interface covers the others."
            )
        Files(self._folder).write_json("export.json", self._record(journal, report))

    def _write_index(self, cases: _Cases, files: Files) -> None:
        names = self._config.labels

        def save(file: Any) -> None:
            text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
            table = csv.writer(text, lineterminator="\n")
            table.writerow([*_INDEX, *names])
            for entry, held_out, rows in cases.rows():
                side = VALIDATION if held_out else TRAINING
                for row in rows:
                    people = " ".join(str(self._names.get(one, one)) for one in row["annotators"])
                    values = {**row, "case": entry, "side": side, "annotators": people}
                    classes = [int(name in row["labels"]) for name in names]
                    table.writerow([*(values[column] for column in _INDEX), *classes])
            text.detach()  # closing the wrapper would close the file

        files.write("index.csv", save)

    def _record(self, journal: Journal, report: Report) -> dict[str, Any]:
        return {
            "firstlight": __version__,
            **self._purpose,
            "title": self._title,
            "model": self._model.version if self._model else "",
            "classes": list(self._config.labels),
            "cases": report.cases,
            "scans": report.scans,
            "scans_with_overlaps": report.overlaps,
            "left_out": report.problems,
            "sha256": journal.files(),
        }


@dataclass(frozen=True)
class _Cases:
    """The written cases of one folder, read from the journal each time."""

    journal: Journal
    folder: str

    def __iter__(self) -> Iterator[Written]:
        for entry in self.journal.entries():
            if note := entry.notes.get(self.folder):
                yield Written(entry.name, note["validation"], note["note"])

    def rows(self) -> Iterator[tuple[str, bool, list[dict[str, Any]]]]:
        """Yield (case, whether it is held out, its rows of the index)."""
        for entry in self.journal.entries():
            if note := entry.notes.get(self.folder):
                yield entry.name, note["validation"], note["rows"]


def _parts(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """Yield cases of about PART scans together."""
    part: list[Case] = []
    for case in cases:
        part.append(case)
        if sum(len(each.scans) for each in part) >= PART:
            yield part
            part = []
    if part:
        yield part
