"""The Data Manager tab that lists a project's scans in the order of the queue.

Our tab is recognised by its title or by its sort order, so it is never made a second time. A tab
that a person changed is never removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backend.label_studio.client import LabelStudio

TITLE = "Firstlight queue"
ORDERING = ["tasks:predictions_score"]  # ascending: the lowest score is served first

Tab = Mapping[str, Any]  # as Label Studio gives it

# Columns that Label Studio's own pages hide in a new tab. A tab that hides none shows them all.
_SELDOM = (
    "inner_id",
    "annotations_results",
    "annotations_ids",
    "predictions_score",
    "predictions_model_versions",
    "predictions_results",
    "file_upload",
    "storage_filename",
    "created_at",
    "updated_at",
    "updated_by",
    "avg_lead_time",
    "draft_exists",
)
_BESIDE_A_SCAN = (
    "id",
    "completed_at",
    "cancelled_annotations",
    "total_predictions",
    "annotators",
)
# Columns that the tab of the queue shows.
SHOWN = ("predictions_score", "predictions_model_versions")


def ensure(studio: LabelStudio, project_id: int) -> None:
    """Make the tab, unless the project has one."""
    tabs = studio.tabs(project_id)
    if any(map(_lists_queue, tabs)):
        return
    if not tabs:
        # Label Studio's pages make their default tab only while there is no tab.
        studio.add_tab(project_id, {"title": "Default", "hiddenColumns": hidden()})
    studio.add_tab(project_id, _queue())


def exists(studio: LabelStudio, project_id: int) -> bool:
    """Return whether a tab of the project lists the queue."""
    return any(map(_lists_queue, studio.tabs(project_id)))


def remove(studio: LabelStudio, project_id: int) -> Iterator[str]:
    """Remove the tab as it was made; one that somebody changed stays. Yield what was done."""
    for tab in studio.tabs(project_id):
        if _is_as_made(tab):
            studio.remove_tab(tab["id"])
            yield f"Removed the Data Manager's tab {TITLE!r}."
        elif content(tab).get("title") == TITLE:
            yield f"Left the Data Manager's tab {TITLE!r} alone: somebody changed it."


def _queue() -> dict[str, Any]:
    return {"title": TITLE, "ordering": ORDERING, "hiddenColumns": hidden(but=SHOWN)}


def hidden(but: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the columns that are hidden in the list, and in the list beside an open scan."""
    seldom = [f"tasks:{name}" for name in _SELDOM if name not in but]
    return {"explore": seldom, "labeling": [*(f"tasks:{name}" for name in _BESIDE_A_SCAN), *seldom]}


def _lists_queue(tab: Tab) -> bool:
    data = content(tab)
    return data.get("title") == TITLE or data.get("ordering") == ORDERING


def _is_as_made(tab: Tab) -> bool:
    # The pages add column widths and the like when somebody opens the tab: that is no change.
    data = content(tab)
    filters = data.get("filters")
    filtered = isinstance(filters, dict) and filters.get("items")
    return data.get("title") == TITLE and data.get("ordering") == ORDERING and not filtered


def content(tab: Tab) -> dict[str, object]:
    """Return what a tab shows and how."""
    return dict(tab.get("data") or {})
