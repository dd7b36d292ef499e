"""Bring the ledger up to date by asking Label Studio; the content of webhooks is ignored."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from backend.errors import OptionsError, Unreachable
from backend.label_studio import labels
from backend.label_studio.answers import annotator
from backend.label_studio.client import TASKS_WITH_MASKS, LabelStudio, ProjectInfo
from backend.label_studio.moments import moment, notation
from backend.options import ProjectOptions, parse_options
from backend.storage import ledger, pages
from backend.storage.artifacts import digest
from backend.storage.ledger import stored_options
from backend.storage.store import Store
from backend.storage.tables import Project

log = logging.getLogger(__name__)

FULL_SYNC_SECONDS = 6 * 3600
# Always read the changes of the last 5 minutes again. Clocks of two machines differ by less; a
# time stamp further in the future comes from a clock that was wrong.
CLOCKS_DIFFER = timedelta(minutes=5)


def look(studio: LabelStudio, store: Store, project: Project) -> dict[str, Any]:
    """Return the values that the timer compares: counters, newest change, label config, options.

    Costs two cheap calls and a list of ML backends; reads no task.
    """
    info = studio.project(project.id)
    entry = studio.entry(project.id, store.installation.answer(project))
    return _seen(studio, store, project.id, info, entry)


def sync(studio: LabelStudio, store: Store, project: Project) -> ProjectOptions:
    """Bring the ledger up to date and return the project's options.

    Reads the tasks that changed since the last sync. Lists all tasks when a full sync was
    requested, when the counts do not agree, or when a wrong clock or a restored backup has put
    Label Studio's times out of order. Reads every annotation when the labelling interface changed,
    and every six hours.

    Raises:
        UnsupportedLabelConfig: When the labelling interface is unsupported.
        LabelStudioError: When Label Studio does not answer, or does not list this backend among
            the project's ML backends.
    """
    info = studio.project(project.id)
    entry = studio.entry(project.id, store.installation.answer(project))
    # Read the counters before the tasks: a change in between then shows up as a difference.
    seen = _seen(studio, store, project.id, info, entry)
    options = _options(store, project, entry)
    masks_too = full_overdue(store, project) or project.label_config != info.label_config
    full = masks_too or _list_is_due(store, project, options, seen)
    title, config = _text(info.title), info.label_config
    # Note the work before doing it: if this sync is cut short, the next one finishes it.
    store.projects.update(project.id, title=title, label_config=config)
    if full:
        store.projects.update(project.id, full_sync=True)
    if masks_too:
        store.projects.update(project.id, full_synced_at=0.0)
    copy = _Copy(studio, store, project.id, labels.parse(info.label_config), options)
    if full or not copy.changes():
        copy.everything(info.counters["task_number"], masks_too=masks_too)
    if masks_too:
        store.projects.update(project.id, full_synced_at=store.clock())
    store.projects.synced(project, seen)
    return options


def full_overdue(store: Store, project: Project) -> bool:
    """Return whether the last full read is six hours old, or lies in the future."""
    return not 0 <= store.clock() - project.full_synced_at < FULL_SYNC_SECONDS


def _seen(
    studio: LabelStudio, store: Store, project_id: int, info: ProjectInfo, entry: dict[str, Any]
) -> dict[str, Any]:
    newest, now = studio.newest_update(project_id), _now(store)
    ahead = moment(newest) > (now + CLOCKS_DIFFER).timestamp()
    return {
        **info.counters,
        "newest_update": newest,
        # A time stamp in the future hides all changes until that time.
        **({"newest_until_now": _newest_until_now(studio, project_id, now)} if ahead else {}),
        "label_config": digest(info.label_config),
        "extra_params": entry.get("extra_params") or {},
    }


def _newest_until_now(studio: LabelStudio, project_id: int, now: datetime) -> str:
    return studio.newest_update(project_id, before=notation(now + CLOCKS_DIFFER))


def _now(store: Store) -> datetime:
    return datetime.fromtimestamp(store.clock(), UTC)


def _options(store: Store, project: Project, entry: dict[str, Any]) -> ProjectOptions:
    """Read the options; if they are invalid, report that and keep the last valid ones."""
    try:
        options = parse_options(entry.get("extra_params"), project.first_method)
    except OptionsError as error:
        log.warning("options refused, the last valid ones stay in force: %s", error)
        store.projects.update(project.id, options_problem=str(error))
        return stored_options(project)
    store.projects.update(project.id, options=options.model_dump(), options_problem="")
    return options


def _list_is_due(
    store: Store, project: Project, options: ProjectOptions, seen: dict[str, Any]
) -> bool:
    """Return whether the ledger's entries of unchanged tasks may be wrong too."""
    return (
        project.full_sync
        or "newest_until_now" in seen
        or stored_options(project).group_by != options.group_by
        or stored_options(project).source_by != options.source_by
        or stored_options(project).slice_by != options.slice_by
    )


@dataclass(frozen=True)
class _Copy:
    """Copies tasks and annotations of one project into the store."""

    studio: LabelStudio
    store: Store
    project_id: int
    config: labels.LabelConfig
    options: ProjectOptions

    def everything(self, tasks: int, *, masks_too: bool) -> None:
        """List all tasks, and forget those that Label Studio does not list.

        Args:
            tasks: Number of tasks that Label Studio counted before.
            masks_too: Whether to read the annotations of all tasks, or only of tasks whose time of
                change or counts differ from the ledger.

        Raises:
            Unreachable: When Label Studio lists fewer tasks than it counts before and after.
        """
        listed: set[int] = set()
        for page in self.studio.tasks(self.project_id):
            self._take(page, masks_too=masks_too)
            listed.update(int(task["id"]) for task in page)
        counted = min(tasks, self.studio.project(self.project_id).counters["task_number"])
        if len(listed) < counted:
            raise Unreachable(
                f"Label Studio lists {len(listed)} of the {counted} tasks that it counts.",
                "Give the token a user who may see all tasks. The backend forgets no scan and "
                "tries again by itself.",
            )
        self.store.scans.keep_only(self.project_id, listed)

    def changes(self) -> bool:
        """Read the tasks that changed since the last sync; return whether the ledger is complete.

        It is complete if its counts equal Label Studio's. A submit between reading and counting
        makes them differ, hence the second try. Label Studio must also list the ledger's newest
        task: if that is missing, an older backup of Label Studio was restored.
        """
        newest, changed_at = self.store.scans.newest(self.project_id)
        since = min(changed_at, notation(_now(self.store) - CLOCKS_DIFFER))
        for _ in range(2):
            listed: set[int] = set()
            for page in self.studio.tasks(self.project_id, since=since):
                self._take(page)
                listed.update(int(task["id"]) for task in page)
            if newest not in {0, *listed}:
                break
            if self._counts() == self.studio.project(self.project_id).counters:
                return True
        log.info("counts or times differ from Label Studio's: listing all tasks")
        return False

    def _take(self, page: Sequence[dict[str, Any]], *, masks_too: bool = False) -> None:
        """Copy a page of tasks, and the annotations of those that changed."""
        rows = [_task_row(task, self.config, self.options) for task in page]
        page_counts = {row["id"]: len(pages.separate(row["url"])) for row in rows}
        ids = [row["id"] for row in rows]
        changed = set(ids) if masks_too else self._changed(page, ids)
        drawn_on = {int(task["id"]) for task in page if _annotated(task)} & changed
        self.store.labels.replace(self.project_id, sorted(changed - drawn_on), [])
        for part in _parts(sorted(drawn_on)):
            annotations = self.studio.annotations(self.project_id, part)
            found = self._rows(annotations, page_counts)
            self.store.labels.replace(self.project_id, part, found)
        # Save the tasks last: after a kill before this line the next sync reads the page again.
        self.store.scans.save(self.project_id, rows)

    def _rows(
        self, annotations: Iterable[dict[str, Any]], page_counts: Mapping[int, int]
    ) -> list[dict[str, Any]]:
        """Return the ledger's rows of some annotations; one of them is in memory as a whole."""
        drawn = [
            (annotator(found), _annotation_row(found, self.config, page_counts))
            for found in annotations
        ]
        numbers = self.store.annotators.numbers(
            self.project_id, [user for user, _ in drawn if user]
        )
        return [{**row, "annotator": numbers.get(user, 0)} for user, row in drawn]

    def _changed(self, page: Sequence[dict[str, Any]], ids: Sequence[int]) -> set[int]:
        """Return the tasks of a page whose annotations may differ from the ledger's."""
        times = {task.id: task.updated_at for task in self.store.scans.some(self.project_id, ids)}
        counts = self.store.labels.counts(self.project_id, ids)
        return {
            task["id"]
            for task in page
            if times.get(task["id"]) != task["updated_at"]
            or counts.get(task["id"], (0, 0)) != _counts_of(task)
        }

    def _counts(self) -> dict[str, int]:
        """Return the ledger's counts under Label Studio's names."""
        return ledger.totals(self.store, self.project_id)


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), TASKS_WITH_MASKS):
        yield ids[start : start + TASKS_WITH_MASKS]


def _counts_of(task: dict[str, Any]) -> tuple[int, int]:
    return int(task["total_annotations"]), int(task["cancelled_annotations"])


def _annotated(task: dict[str, Any]) -> bool:
    return any(_counts_of(task))


def _task_row(
    task: dict[str, Any], config: labels.LabelConfig, options: ProjectOptions
) -> dict[str, Any]:
    data = task.get("data") or {}
    return {
        "id": int(task["id"]),
        "url": labels.address(data, config),
        "group": _named(data, options.group_by),
        "source": _named(data, options.source_by),
        "place": _place(data.get(options.slice_by) if options.slice_by else None),
        "updated_at": str(task["updated_at"]),
        "is_labeled": bool(task["is_labeled"]),
        "overlap": int(task["overlap"] or 1),
    }


def _named(data: dict[str, Any], key: str) -> str:
    """Return the value of a key of the task data; "" without an option, key or value."""
    value = data.get(key) if key else None
    return "" if value is None else _text(value)


def _place(value: object) -> float | None:
    """Return the place of a slice; None if task data have no number for it."""
    try:
        place = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return place if math.isfinite(place) else None


def _text(value: object) -> str:
    """Return a text without NUL characters, which PostgreSQL cannot store."""
    return str(value).replace("\0", "")


def _annotation_row(
    annotation: dict[str, Any], config: labels.LabelConfig, page_counts: Mapping[int, int]
) -> dict[str, Any]:
    result, task_id = annotation["result"] or [], int(annotation["task"])
    drawn = _UNREAD if annotation["was_cancelled"] else _drawn(result, config, page_counts[task_id])
    return {
        "id": int(annotation["id"]),
        "task_id": task_id,
        "updated_at": str(annotation["updated_at"]),
        "created_at": str(annotation["created_at"]),
        "cancelled": bool(annotation["was_cancelled"]),
        "ground_truth": bool(annotation["ground_truth"]),
        "seconds": _seconds(annotation.get("lead_time")),
        "result": json.dumps(result),
        **drawn,
    }


_UNREAD = {"problem": "", "area": 0.0, "kept": 0, "changed": 0, "manual": 0}
_LONGEST = 1e9  # seconds, 30 years
_GRID = (64, 64)  # fine enough for the area; no scan has to be fetched for it


def _drawn(result: list[Any], config: labels.LabelConfig, page_count: int) -> dict[str, Any]:
    """Decode an annotation once.

    Returns:
        `problem`: Why it cannot be trained on, or "". `area`: The share of the scan that is drawn.
        `kept`, `changed` and `manual`: How many of its regions are of each origin.
    """
    try:
        labels.check_pages(result, config, page_count)
        mask = np.stack([*labels.stacked(result, config, size=_GRID, pages=page_count)])
        origins = labels.origins(result, config)
    except ValueError as error:
        return {**_UNREAD, "problem": str(error)}
    return {"problem": "", "area": float(mask.any(axis=0).mean()), **origins}


def _seconds(lead_time: object) -> float | None:
    """Return a measured time; None if Label Studio has none, as for imported annotations."""
    if isinstance(lead_time, bool) or not isinstance(lead_time, int | float):
        return None
    return float(lead_time) if 0 < lead_time < _LONGEST else None
