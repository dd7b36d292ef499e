"""Suspicions about labels, as predictions of the live version on labelled tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from backend.label_studio.client import PAGE, LabelStudio
from backend.label_studio.queue_import import QueueItem, parts

# Added to every suspicion: scores of a queue lie below 1, and Label Studio serves the lowest first.
# Should the annotation of a reviewed task be deleted, the task is served last until the next queue.
ABOVE_THE_QUEUE = 1.0

# In a call. A round must not wait until hundreds of masks are stored.
AT_ONCE = 25

# The filter of labelled tasks, as the Data Manager writes it.
LABELLED = {
    "filter": "filter:tasks:total_annotations",
    "operator": "greater",
    "type": "Number",
    "value": 0,
}


def publish(
    studio: LabelStudio,
    project_id: int,
    version: str,
    reviewed: Sequence[QueueItem],
    suspicions: Mapping[int, float],
    stop: Callable[[], bool],
) -> bool:
    """Write a prediction on each of these tasks that holds none of the version yet.

    Return whether all are written. The call may be repeated: what an earlier call wrote is not
    written again.

    Args:
        studio: Label Studio.
        project_id: The project.
        version: The live version.
        reviewed: Labelled tasks, each with the regions that the networks expect.
        suspicions: In [0, 1], by task.
        stop: Asked before every call that writes; if it returns True, the rest is not written.
    """
    held = set(_holding(studio, project_id, version)) if reviewed else set()
    missing = [item for item in reviewed if item.task not in held]
    for chunk in parts(missing, AT_ONCE):
        if stop():
            return False
        rows = [
            {
                "task": item.task,
                "score": ABOVE_THE_QUEUE + suspicions[item.task],
                "model_version": version,
                "result": item.result,
            }
            for _, item in chunk
        ]
        studio.transport.call(
            "POST", f"api/projects/{project_id}/import/predictions", rows, retries=0
        )
    return True


def _holding(studio: LabelStudio, project_id: int, version: str) -> Iterator[int]:
    """Yield the ids of the labelled tasks with a prediction of a version."""
    api, last, left = studio.transport, 0, 1
    while left:
        items = [
            {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last},
            LABELLED,
            {
                "filter": "filter:tasks:predictions_model_versions",
                "operator": "contains",
                "type": "List",
                "value": [version],
            },
        ]
        query = {"ordering": ["tasks:id"], "filters": {"conjunction": "and", "items": items}}
        params = {
            "project": project_id,
            "page": 1,
            "page_size": PAGE,
            "include": "id",
            "query": json.dumps(query),
        }
        page = api.object(
            api.call("GET", "api/tasks", params=params), {"tasks": list, "total": int}
        )
        found = [row["id"] for row in api.rows(page["tasks"], {"id": int})]
        if not found:
            return
        if found[-1] <= last:  # else the loop would never end
            raise api.foreign()
        last, left = found[-1], page["total"] - len(found)
        yield from found
