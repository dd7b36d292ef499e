"""The group of every scan, and whether it is held out: the split of the project's rounds."""

from __future__ import annotations

from backend.storage import ledger
from backend.storage.store import Store

TRAINING, VALIDATION = "training", "validation"


class Sides:
    """The split as the rounds stored it. A scan that no round has used yet follows its group."""

    def __init__(self, store: Store, project: int) -> None:
        now = ledger.read(store, project)
        self._groups = now.groups
        self._named = {task.id: task.group for task in now.tasks}
        self._held = {
            self._groups[task]
            for task, validation in store.labels.splits(project).items()
            if validation and task in self._groups
        }

    def is_validation(self, task: int) -> bool:
        """Return whether a scan is held out from training."""
        return self._groups.get(task, -1) in self._held

    def side(self, task: int) -> str:
        """Return the side of a scan."""
        return VALIDATION if self.is_validation(task) else TRAINING

    def group(self, task: int) -> str:
        """Return the value of the task data's key `group_by`, "" without one."""
        return self._named.get(task, "")
