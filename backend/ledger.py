"""The ledger: what Label Studio holds, copied by asking, never by believing a webhook."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from backend import labels
from backend.artifacts import digest
from backend.errors import OptionsError
from backend.gateway import LabelStudio, ProjectInfo
from backend.settings import ProjectOptions, parse_options
from backend.store import Annotation, Project, Store, Task

log = logging.getLogger(__name__)

FULL_SYNC_SECONDS = 6 * 3600


@dataclass(frozen=True)
class Ledger:
    """A project as one round sees it."""

    tasks: list[Task]
    usable: dict[int, list[Annotation]]  # task id -> its usable annotations, by first label
    skipped: frozenset[int]
    open: frozenset[int]  # tasks that Label Studio would still serve

    @property
    def label_keys(self) -> list[str]:
        """What the labels are, so that a changed label is a new key."""
        return [f"{a.id}@{a.updated_at}" for found in self.usable.values() for a in found]


def read(store: Store, project_id: int) -> Ledger:
    """Return the ledger as it stands.

    An annotation counts unless it was skipped, cannot be decoded, or its scan cannot be read.
    """
    tasks = store.tasks(project_id)
    readable = {task.id for task in tasks if not task.problem}
    usable: dict[int, list[Annotation]] = {}
    skipped = set()
    for found in store.annotations(project_id):
        if found.cancelled:
            skipped.add(found.task_id)
        elif not found.problem and found.task_id in readable:
            usable.setdefault(found.task_id, []).append(found)
    return Ledger(
        tasks=tasks,
        usable=usable,
        skipped=frozenset(skipped - usable.keys()),
        open=frozenset(task.id for task in tasks if not task.is_labeled),
    )


def initial_answer(store: Store) -> str:
    """Return what /setup answers before the first queue: it names this installation."""
    return f"firstlight-{store.installation}"


def look(studio: LabelStudio, store: Store, project: Project) -> dict[str, Any]:
    """Return what the timer compares: counters, newest change, label config, options.

    Two cheap calls and a list of entries; no task is read.
    """
    info = studio.project(project.id)
    entry = studio.entry(project.id, project.live_version or initial_answer(store))
    return _seen(studio, project.id, info, entry)


def sync(studio: LabelStudio, store: Store, project: Project) -> ProjectOptions:
    """Bring the ledger up to date and return the project's options.

    Reads only what changed since the last sync, or everything when that was asked for, is due, or
    the counts do not agree.

    Raises:
        UnsupportedLabelConfig: When the labelling interface cannot be served.
        LabelStudioError: When Label Studio does not answer, or has no entry of ours.
    """
    info = studio.project(project.id)
    entry = studio.entry(project.id, project.live_version or initial_answer(store))
    # Looked at before the tasks are read: what changes meanwhile shows up as a difference.
    seen = _seen(studio, project.id, info, entry)
    options = _options(store, project, entry)
    store.update(project.id, title=info.title, label_config=info.label_config)
    config = labels.parse(info.label_config)
    full = (
        project.full_sync or _full_due(store, project) or project.label_config != info.label_config
    )
    _pull(studio, store, project, config, options, full=full)
    if not full and _counts(store, project.id) != _wanted_counts(info):
        log.info("counts differ from Label Studio's: reading everything")
        _pull(studio, store, project, config, options, full=True)
        full = True
    values: dict[str, Any] = {"seen": seen, "full_sync": False}
    if full:
        values["full_synced_at"] = store.clock()
    store.update(project.id, **values)
    return options


def stored_options(project: Project) -> ProjectOptions:
    """Return the last valid options of a project."""
    return ProjectOptions(**project.options)


def _seen(
    studio: LabelStudio, project_id: int, info: ProjectInfo, entry: dict[str, Any]
) -> dict[str, Any]:
    return {
        **info.counters,
        "newest_update": studio.newest_update(project_id),
        "label_config": digest(info.label_config),
        "extra_params": entry.get("extra_params") or {},
    }


def _options(store: Store, project: Project, entry: dict[str, Any]) -> ProjectOptions:
    """Read the options; a bad one is said, and the last valid ones stay in force."""
    try:
        options = parse_options(entry.get("extra_params"))
    except OptionsError as error:
        log.warning("options refused: %s", error)
        store.update(project.id, options_problem=str(error))
        return stored_options(project)
    store.update(project.id, options=options.model_dump(), options_problem="")
    return options


def _full_due(store: Store, project: Project) -> bool:
    return store.clock() - project.full_synced_at >= FULL_SYNC_SECONDS


def _pull(
    studio: LabelStudio,
    store: Store,
    project: Project,
    config: labels.LabelConfig,
    options: ProjectOptions,
    *,
    full: bool,
) -> None:
    """Copy tasks, and the annotations of those that changed."""
    known = {} if full else {task.id: task.updated_at for task in store.tasks(project.id)}
    since = max(known.values(), default="")
    pages = list(studio.tasks(project.id, since=since))
    listed = [task for page in pages for task in page]
    changed = [int(t["id"]) for t in listed if known.get(t["id"]) != t["updated_at"]]
    rows = [_annotation_row(found, config) for found in studio.annotations(project.id, changed)]
    store.replace_annotations(project.id, changed, rows)
    # Tasks last: after a kill before this line the next sync sees the same ones changed.
    for page in pages:
        store.save_tasks(project.id, [_task_row(task, config, options) for task in page])
    if full:
        store.keep_only(project.id, [int(task["id"]) for task in listed])


def _task_row(
    task: dict[str, Any], config: labels.LabelConfig, options: ProjectOptions
) -> dict[str, Any]:
    data = task.get("data") or {}
    group = data.get(options.group_by, "") if options.group_by else ""
    return {
        "id": int(task["id"]),
        "url": str(data.get(config.image_key) or ""),
        "group": str(group),
        "updated_at": str(task["updated_at"]),
        "is_labeled": bool(task["is_labeled"]),
    }


def _annotation_row(found: dict[str, Any], config: labels.LabelConfig) -> dict[str, Any]:
    result = found["result"] or []
    return {
        "id": int(found["id"]),
        "task_id": int(found["task"]),
        "updated_at": str(found["updated_at"]),
        "created_at": str(found["created_at"]),
        "cancelled": bool(found["was_cancelled"]),
        "ground_truth": bool(found["ground_truth"]),
        "result": json.dumps(result),
        "problem": "" if found["was_cancelled"] else _problem(result, config),
    }


def _problem(result: list[Any], config: labels.LabelConfig) -> str:
    """Return why an annotation cannot train, found out by decoding it once."""
    try:
        labels.masks(result, config, size=(8, 8))
    except ValueError as error:
        return str(error)
    return ""


def _counts(store: Store, project_id: int) -> Counter[str]:
    """Count the ledger as Label Studio counts itself."""
    annotations: Sequence[Annotation] = store.annotations(project_id)
    return Counter(
        task_number=len(store.tasks(project_id)),
        total_annotations_number=_number(not a.cancelled for a in annotations),
        skipped_annotations_number=_number(a.cancelled for a in annotations),
    )


def _wanted_counts(info: ProjectInfo) -> Counter[str]:
    names = ("task_number", "total_annotations_number", "skipped_annotations_number")
    return Counter({name: info.counters[name] for name in names})


def _number(flags: Iterable[bool]) -> int:
    return sum(flags)
