"""An annotator over Label Studio's HTTP API, with the calls that its pages make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx
import numpy as np

from backend.label_studio.labels import interface
from demo.errors import DemoError
from demo.scans import Mask, Scan
from model import masks

Task = dict[str, Any]  # as Label Studio sends it

_FILES_A_CALL = 20  # Label Studio refuses more than 100 files or 250 MB at once
_UPLOADED = re.compile(r"/[0-9a-f]{8}-(\d{6})-[^/]*$")


class Annotator:
    """A person who uses Label Studio's pages; a context manager that closes its connections.

    Never reads a task by GET /api/tasks/{id}: that makes Label Studio ask for a live draft, and
    its pages do not call it when they serve the queue.

    Raises:
        DemoError: By every method, when Label Studio refuses or does not answer.
    """

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Token {token}"},
            timeout=120,
            trust_env=False,
        )
        self._tabs: dict[int, int] = {}
        self._opened = datetime.now(UTC)

    def create_project(self, title: str, labels: Sequence[str]) -> int:
        """The id of a new project whose labels are painted with a brush on `$image`."""
        answer = self.call(
            "POST",
            "/api/projects/",
            json={"title": title, "label_config": interface.of_slices(labels, viewer=False)},
        )
        return int(answer["id"])

    def import_scans(self, project: int, scans: Sequence[Scan]) -> dict[int, Scan]:
        """Upload the images; return the scan of each new task id."""
        new: set[int] = set()
        for first in range(0, len(scans), _FILES_A_CALL):
            new.update(self._upload(project, scans[first : first + _FILES_A_CALL], first))
        numbers = self._upload_numbers(project)
        return {task: scans[numbers[task]] for task in sorted(new)}

    def next_task(self, project: int) -> Task | None:
        """The task that the button "Label All Tasks" opens; None when no task is left."""
        self._opened = datetime.now(UTC)
        task: Task | None = self.call(
            "POST",
            "/api/dm/actions",
            params={"id": "next_task", "tabID": self._tab(project), "project": project},
            json={"project": str(project)},
            nothing=httpx.codes.NOT_FOUND,
        )
        return task

    def submit(self, task: Task, mask: Mask, *, label: str = "Object") -> int:
        """Submit (h, w) `mask` as the only region of its label; return the annotation's id.

        An empty mask is submitted without a region: there is nothing on this scan.
        """
        origin = "prediction-changed" if _draft(task) else "manual"
        result = [region(mask, label) | {"origin": origin}] if mask.any() else []
        return self._annotate(task, {"result": result})

    def skip(self, task: Task) -> int:
        """Skip as the page does, which sends the draft along; return the annotation's id."""
        return self._annotate(task, {"result": _draft(task), "was_cancelled": True})

    def delete_annotation(self, annotation: int) -> None:
        """Delete an annotation; its scan goes back to the pool."""
        self.call("DELETE", f"/api/annotations/{annotation}/")

    def predictions(self, project: int, version: str) -> list[dict[str, Any]]:
        """Everything stored under that model version: `task`, `score`, `result` and more."""
        stored = self.call("GET", "/api/predictions/", params={"project": project})
        return [prediction for prediction in stored if prediction["model_version"] == version]

    def project(self, project: int) -> dict[str, Any]:
        """The project's settings and counters."""
        return dict(self.call("GET", f"/api/projects/{project}/"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def _upload(self, project: int, scans: Sequence[Scan], first: int) -> list[int]:
        # Label Studio alters names but keeps digits: a number in front leads back to the scan.
        names = [f"{first + row:06d}-{scan.name}" for row, scan in enumerate(scans)]
        answer = self.call(
            "POST",
            f"/api/projects/{project}/import",
            params={"return_task_ids": "true"},
            files={
                name: (name, scan.image_path.read_bytes())
                for name, scan in zip(names, scans, strict=True)
            },
        )
        return list(answer["task_ids"])

    def _upload_numbers(self, project: int) -> dict[int, int]:
        listing = self.call(
            "GET",
            "/api/tasks",
            params={"project": project, "page_size": 1_000_000, "include": "id,data"},
        )
        images = {task["id"]: str(task["data"].get("image")) for task in listing["tasks"]}
        matches = {task: _UPLOADED.search(image) for task, image in images.items()}
        return {task: int(match[1]) for task, match in matches.items() if match}

    def _tab(self, project: int) -> int:
        if project not in self._tabs:
            tabs = self.call("GET", "/api/dm/views/", params={"project": project})
            self._tabs[project] = int(tabs[0]["id"]) if tabs else self._new_tab(project)
        return self._tabs[project]

    def _new_tab(self, project: int) -> int:
        body = {"project": project, "data": {"title": "Default"}}
        answer = self.call("POST", "/api/dm/views/", params={"project": project}, json=body)
        return int(answer["id"])

    def _annotate(self, task: Task, content: dict[str, Any]) -> int:
        seconds = (datetime.now(UTC) - self._opened).total_seconds()
        shown = task.get("predictions") or [{}]
        body = {
            "lead_time": round(seconds, 3),
            "started_at": self._opened.isoformat(),
            "parent_prediction": shown[0].get("id"),
            "project": str(task["project"]),
        }
        path = f"/api/tasks/{task['id']}/annotations/"
        answer = self.call("POST", path, params={"project": task["project"]}, json=body | content)
        return int(answer["id"])

    def call(self, method: str, path: str, nothing: int | None = None, **request: Any) -> Any:
        """The JSON answer to a request; None for an empty answer or the code `nothing`."""
        answer = self._send(method, path, **request)
        if answer.status_code == nothing:
            return None
        if answer.is_error:
            raise DemoError(
                f"Label Studio answered {answer.status_code} to {method} {path}: "
                f"{answer.text[:300]}"
            )
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise DemoError(f"Label Studio did not answer {method} {path}: {error}") from error


def drawn(result: Sequence[dict[str, Any]]) -> Mask | None:
    """The union (h, w) of the brush regions of a result; None when it has none."""
    brushes = [region for region in result if region["type"] == "brushlabels"]
    painted = [
        masks.decode(region["value"]["rle"], region["original_height"], region["original_width"])
        for region in brushes
    ]
    return np.logical_or.reduce(painted) if painted else None


def _draft(task: Task) -> list[dict[str, Any]]:
    shown = task.get("predictions") or [{}]
    return list(shown[0].get("result") or [])


def region(mask: Mask, label: str) -> dict[str, Any]:
    """The brush region that covers `mask` (h, w)."""
    height, width = mask.shape
    return {
        "id": uuid4().hex[:10],
        "from_name": interface.BRUSH,
        "to_name": interface.SHOWN,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": masks.encode(mask), "brushlabels": [label]},
    }
