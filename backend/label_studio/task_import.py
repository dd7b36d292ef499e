"""The calls to Label Studio that fill a project: files, local storage and tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.transport import Transport

_FILES_A_CALL = 50  # Label Studio refuses more than 100 files or 250 MB at once
_BYTES_A_CALL = 100_000_000
_TASKS_A_CALL = 250
_STORAGE = "Firstlight slices"
# A sync of the storage would make a task of each slice once more; so it finds no file.
_NO_FILE = r"^\b$"


class TaskImport:
    """Makes projects and tasks; every failure raises a LabelStudioError."""

    def __init__(self, studio: LabelStudio) -> None:
        self._api: Transport = studio.transport

    def projects_titled(self, title: str) -> list[int]:
        """Return the ids of the projects with exactly this title."""
        params = {"title": title, "include": "id,title", "page_size": 100}
        found = self._api.object(
            self._api.call("GET", "api/projects", params=params), {"results": list}
        )
        rows = self._api.rows(found["results"], {"id": int})
        return [row["id"] for row in rows if row.get("title") == title]

    def create_project(self, title: str, label_config: str) -> int:
        """Return the id of a new project."""
        fields = {"title": title, "label_config": label_config}
        made = self._api.call("POST", "api/projects", fields, retries=0)
        return int(self._api.object(made, {"id": int})["id"])

    def uploads(self, project_id: int) -> dict[str, str]:
        """Return the addresses of the files that this token uploaded, by their names."""
        return self._addresses(project_id, {"all": "true"})

    def upload(self, project_id: int, paths: Sequence[Path]) -> dict[str, str]:
        """Upload files without making tasks of them; return their addresses by their names."""
        addresses: dict[str, str] = {}
        for part in _parts(paths):
            answer = self._api.upload(
                f"api/projects/{project_id}/import",
                {path.name: path.read_bytes() for path in part},
                params={"commit_to_project": "false"},
            )
            ids = self._api.object(answer, {"file_upload_ids": list})["file_upload_ids"]
            addresses |= self._addresses(project_id, {"ids": json.dumps(ids)})
        return addresses

    def _addresses(self, project_id: int, params: Mapping[str, Any]) -> dict[str, str]:
        found = self._api.call("GET", f"api/projects/{project_id}/file-uploads", params=params)
        files = [row["file"] for row in self._api.rows(found, {"file": str})]
        # Label Studio puts eight random digits and a hyphen before the name.
        return {PurePosixPath(file).name[9:]: f"/data/{file}" for file in files}

    def ensure_storage(self, project_id: int, path: str) -> None:
        """Let Label Studio serve a folder of its machine to the people of a project.

        Raises:
            LabelStudioError: If it may not, with its reason.
        """
        found = self._api.call("GET", "api/storages/localfiles", params={"project": project_id})
        if any(row.get("path") == path for row in self._api.rows(found, {"id": int})):
            return
        fields = {
            "project": project_id,
            "path": path,
            "title": _STORAGE,
            "use_blob_urls": True,
            "regex_filter": _NO_FILE,
        }
        try:
            self._api.call("POST", "api/storages/localfiles", fields, retries=0)
        except LabelStudioError as error:
            raise LabelStudioError(
                f"Label Studio cannot serve {path}: {error.what}",
                "Start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and a "
                "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT above that folder, or leave out "
                "--local-files: slices are then uploaded.",
            ) from None

    def add_tasks(self, project_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make a task of each object of task data; never repeated, because that doubles tasks."""
        for start in range(0, len(rows), _TASKS_A_CALL):
            part = [{"data": dict(row)} for row in rows[start : start + _TASKS_A_CALL]]
            self._api.call("POST", f"api/projects/{project_id}/import", part, retries=0)

    def upload_tasks(self, project_id: int, files: Mapping[str, bytes]) -> int:
        """Upload files and make a task of each; return how many were made. Never repeated.

        Args:
            project_id: The project.
            files: The bytes of each file by its name; Label Studio takes at most 100 files and
                250 MB in one call, and keeps letters, digits, "-", "_" and "." of a name.
        """
        made = self._api.upload(f"api/projects/{project_id}/import", files)
        return int(self._api.object(made, {"task_count": int})["task_count"])


def _parts(paths: Sequence[Path]) -> list[list[Path]]:
    """Return the files in parts that Label Studio takes in one call."""
    parts: list[list[Path]] = [[]]
    size = 0
    for path in paths:
        size += path.stat().st_size
        if parts[-1] and (len(parts[-1]) == _FILES_A_CALL or size > _BYTES_A_CALL):
            parts.append([])
            size = path.stat().st_size
        parts[-1].append(path)
    return [part for part in parts if part]
