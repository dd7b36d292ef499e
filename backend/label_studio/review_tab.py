"""The Data Manager tab that lists labelled tasks, the most suspicious label first.

Our tab is recognised by its title. A tab that a person changed is never removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from backend.label_studio import queue_tab
from backend.label_studio.client import LabelStudio
from backend.label_studio.review_predictions import LABELLED

TITLE = "Firstlight review"
ORDERING = ["-tasks:predictions_score"]  # descending: the most suspicious label first
FILTERS = {"conjunction": "and", "items": [LABELLED]}


def ensure(studio: LabelStudio, project_id: int) -> None:
    """Make the tab, unless the project has one."""
    if any(queue_tab.content(tab).get("title") == TITLE for tab in studio.tabs(project_id)):
        return
    hidden = queue_tab.hidden(but=queue_tab.SHOWN)
    data = {"title": TITLE, "ordering": ORDERING, "filters": FILTERS, "hiddenColumns": hidden}
    studio.add_tab(project_id, data)


def remove(studio: LabelStudio, project_id: int) -> Iterator[str]:
    """Remove the tab as it was made; one that somebody changed stays. Yield what was done."""
    for tab in studio.tabs(project_id):
        data = queue_tab.content(tab)
        if data.get("title") != TITLE:
            continue
        if data.get("ordering") == ORDERING and data.get("filters") == FILTERS:
            studio.remove_tab(tab["id"])
            yield f"Removed the Data Manager's tab {TITLE!r}."
        else:
            yield f"Left the Data Manager's tab {TITLE!r} alone: somebody changed it."
