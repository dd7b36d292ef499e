"""Questions about how Label Studio was started; its API answers them only indirectly.

Every question stores nothing.
"""

from __future__ import annotations

import re

from backend.errors import LabelStudioError, NotFound
from backend.label_studio.client import LabelStudio

NO_TASK = 0  # no task has this id
NO_PROJECT = -1  # no project has this id
# How the fast import refuses an unknown task; the slow import uses other words.
_FAST_REFUSAL = re.compile(rf"task ID {NO_TASK} not found in project")
_LOCAL_FILES = "data/local-files/"


def imports_fast(studio: LabelStudio, project_id: int) -> bool:
    """Return whether Label Studio imports a queue without loading every task of the project.

    Raises:
        LabelStudioError: When Label Studio does not answer.
    """
    row = {"task": NO_TASK, "result": []}
    path = f"api/projects/{project_id}/import/predictions"
    return bool(_FAST_REFUSAL.search(studio.transport.refusal_of("POST", path, [row])))


def serves_local_files(studio: LabelStudio) -> bool:
    """Return whether Label Studio serves files of a local folder at all.

    Raises:
        LabelStudioError: When Label Studio does not answer.
    """
    try:
        refusal = studio.transport.refusal_of("GET", _LOCAL_FILES)
    except NotFound:  # the file that was not named
        return True
    return "LOCAL_FILES_SERVING_ENABLED" not in refusal


def is_local_file(url: str) -> bool:
    """Return whether the image of a task lies in a local folder of Label Studio's machine."""
    return url.lstrip("/").startswith(_LOCAL_FILES)


def newest_project(studio: LabelStudio) -> int | None:
    """Return the newest project that the token may see; None without one.

    Raises:
        LabelStudioError: When Label Studio does not answer.
    """
    api = studio.transport
    found = api.call("GET", "api/projects/", params={"page_size": 1, "include": "id"})
    rows = api.rows(api.object(found, {"results": list})["results"], {"id": int})
    return rows[0]["id"] if rows else None


def check_entry_address(studio: LabelStudio, url: str) -> None:
    """Make sure that a backend entry may have this address.

    Raises:
        LabelStudioError: With Label Studio's reason.
    """
    _check_address(studio, "api/ml", url)


def check_webhook_address(studio: LabelStudio, url: str) -> None:
    """Make sure that a webhook may have this address.

    Raises:
        LabelStudioError: With Label Studio's reason.
    """
    _check_address(studio, "api/webhooks/", url)


def _check_address(studio: LabelStudio, path: str, url: str) -> None:
    # Label Studio checks all fields at once: it refuses the project, and so stores nothing.
    try:
        studio.transport.call("POST", path, {"url": url, "project": NO_PROJECT}, retries=0)
    except LabelStudioError as error:
        if "object does not exist" not in error.what or "valid URL" in error.what:
            raise
