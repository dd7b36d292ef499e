"""A Label Studio in memory that takes projects, uploads, storages and tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import httpx

from tests.backend.fake_label_studio import Answer, FakeLabelStudio, Json, error

LONGEST_PATH = 100  # of an upload


class FillableLabelStudio(FakeLabelStudio):
    """Takes imports as Label Studio 1.23.2 does.

    Attributes:
        uploaded: The files of each project, with the digits that Label Studio puts before names.
        storages: The local storages of each project.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploaded: dict[int, dict[int, str]] = {}
        self.storages: dict[int, list[Json]] = {}

    def _routes(self) -> dict[str, Callable[..., Answer]]:
        return {
            r"POST /api/projects/(\d+)/import": self._post_import,
            r"GET /api/projects/(\d+)/file-uploads": self._get_uploads,
            r"GET /api/storages/localfiles": self._get_storages,
            r"POST /api/storages/localfiles": self._post_storage,
            **super()._routes(),
        }

    def _post_import(self, request: httpx.Request, project_id: int) -> Answer:
        if "multipart" in request.headers["content-type"]:
            return self._take_files(request, project_id)
        for row in json.loads(request.content):
            number = self.add_task(project_id)
            self.projects[project_id].tasks[number]["data"] = row["data"]
        return Answer(201, json={"task_count": 1})

    def _take_files(self, request: httpx.Request, project_id: int) -> Answer:
        names = re.findall(rb'filename="([^"]+)"', request.read())
        if len(names) > 100:
            return error(400, "too many files")
        ids = []
        for name in names:
            number = self._next()
            path = _shortened(f"upload/{project_id}/{number:08x}-{name.decode()}")
            self.uploaded.setdefault(project_id, {})[number] = path
            ids.append(number)
        return Answer(201, json={"file_upload_ids": ids, "task_count": len(ids)})

    def _get_uploads(self, request: httpx.Request, project_id: int) -> Answer:
        files = self.uploaded.get(project_id, {})
        wanted = json.loads(request.url.params.get("ids", "null"))
        shown = [i for i in files if wanted is None or i in wanted]
        return Answer(200, json=[{"id": i, "file": files[i]} for i in shown])

    def _get_storages(self, request: httpx.Request) -> Answer:
        return Answer(200, json=self.storages.get(int(request.url.params["project"]), []))

    def _post_storage(self, request: httpx.Request) -> Answer:
        body = json.loads(request.content)
        self.storages.setdefault(body["project"], []).append({"id": self._next(), **body})
        return Answer(201, json=body)


def _shortened(path: str) -> str:
    """Return a path as Django stores it: too long a name is cut, and ends in seven characters."""
    if len(path) <= LONGEST_PATH:
        return path
    root, _, ending = path.rpartition(".")
    return f"{root[: LONGEST_PATH - len(ending) - 9]}_a1B2c3D.{ending}"
