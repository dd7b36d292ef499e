"""Bring the ledger up to date by asking Label Studio, never by believing a webhook."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend import labels
from backend.artifacts import digest
from backend.errors import OptionsError
from backend.gateway import LabelStudio, ProjectInfo
from backend.ledger import stored_options
from backend.settings import ProjectOptions, parse_options
from backend.store import Project, Store

log = logging.getLogger(__name__)

FULL_SYNC_SECONDS = 6 * 3600


def look(studio: LabelStudio, store: Store, project: Project) -> dict[str, Any]:
    """Return what the timer compares: counters, newest change, label config, options.

    Two cheap calls and a list of entries; no task is read.
    """
    info = studio.project(project.id)
    entry = studio.entry(project.id, store.answer(project))
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
    entry = studio.entry(project.id, store.answer(project))
    # Looked at before the tasks are read: what changes meanwhile shows up as a difference.
    seen = _seen(studio, project.id, info, entry)
    options = _options(store, project, entry)
    full = _everything_due(store, project, info, options)
    title, config = _text(info.title), info.label_config
    store.update(project.id, title=title, label_config=config, full_sync=full)
    copy = _Copy(studio, store, project.id, labels.parse(info.label_config), options)
    if full or not copy.changes():
        copy.everything()
        store.update(project.id, full_synced_at=store.clock())
    store.synced(project, seen)
    return options


def full_overdue(store: Store, project: Project) -> bool:
    """Return whether everything was read too long ago, so that the next sync will read it again."""
    return store.clock() - project.full_synced_at >= FULL_SYNC_SECONDS


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


def _everything_due(
    store: Store, project: Project, info: ProjectInfo, options: ProjectOptions
) -> bool:
    """Return whether what is known of unchanged tasks may be wrong too."""
    return (
        project.full_sync
        or full_overdue(store, project)
        or project.label_config != info.label_config
        or stored_options(project).group_by != options.group_by
    )


@dataclass(frozen=True)
class _Copy:
    """Copies tasks and annotations of one project into the store."""

    studio: LabelStudio
    store: Store
    project_id: int
    config: labels.LabelConfig
    options: ProjectOptions

    def everything(self) -> None:
        """Read all tasks and annotations; what is not among them is forgotten."""
        listed = self._pull("", {})
        self.store.keep_only(self.project_id, listed)

    def changes(self) -> bool:
        """Read what changed since the last time; return whether the counts agree afterwards.

        A submit between counting and reading would disagree for no reason, hence the second try.
        """
        for _ in range(2):
            known = {task.id: task.updated_at for task in self.store.tasks(self.project_id)}
            self._pull(max(known.values(), default=""), known)
            if self._counts() == self.studio.project(self.project_id).counters:
                return True
        log.info("counts differ from Label Studio's: reading everything")
        return False

    def _pull(self, since: str, known: Mapping[int, str]) -> list[int]:
        pages = list(self.studio.tasks(self.project_id, since=since))
        listed = [task for page in pages for task in page]
        changed = [task for task in listed if known.get(task["id"]) != task["updated_at"]]
        drawn_on = [int(task["id"]) for task in changed if _annotated(task)]
        rows = [
            _annotation_row(found, self.config)
            for found in self.studio.annotations(self.project_id, drawn_on)
        ]
        changed_ids = [int(task["id"]) for task in changed]
        self.store.replace_annotations(self.project_id, changed_ids, rows)
        # Tasks last: after a kill before this line the next sync sees the same ones changed.
        for page in pages:
            rows = [_task_row(task, self.config, self.options) for task in page]
            self.store.save_tasks(self.project_id, rows)
        return [int(task["id"]) for task in listed]

    def _counts(self) -> dict[str, int]:
        """Count the ledger as Label Studio counts itself."""
        annotations = self.store.annotations(self.project_id)
        return {
            "task_number": len(self.store.tasks(self.project_id)),
            "total_annotations_number": sum(not found.cancelled for found in annotations),
            "skipped_annotations_number": sum(found.cancelled for found in annotations),
            "ground_truth_number": sum(found.ground_truth for found in annotations),
        }


def _annotated(task: dict[str, Any]) -> bool:
    return bool(task["total_annotations"] or task["cancelled_annotations"])


def _task_row(
    task: dict[str, Any], config: labels.LabelConfig, options: ProjectOptions
) -> dict[str, Any]:
    data = task.get("data") or {}
    group = data.get(options.group_by) if options.group_by else None
    return {
        "id": int(task["id"]),
        "url": _text(data.get(config.image_key) or ""),
        "group": "" if group is None else _text(group),  # null names no patient
        "updated_at": str(task["updated_at"]),
        "is_labeled": bool(task["is_labeled"]),
    }


def _text(value: object) -> str:
    """Return a text without NUL, which PostgreSQL keeps nowhere."""
    return str(value).replace("\0", "")


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
