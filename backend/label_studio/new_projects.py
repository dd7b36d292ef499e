"""A project that does not exist yet: make it, and upload images into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

from backend.label_studio.client import LabelStudio
from backend.label_studio.transport import Transport


def brush_config(labels: Sequence[str]) -> str:
    """Return a label config that paints these labels with a brush on the image `$image`."""
    choices = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    return (
        '<View><Image name="image" value="$image" zoom="true"/>'
        f'<BrushLabels name="mask" toName="image">{choices}</BrushLabels></View>'
    )


class NewProjects:
    """Makes projects in one Label Studio; every failure raises a LabelStudioError."""

    def __init__(self, studio: LabelStudio) -> None:
        self._api: Transport = studio.transport

    def create(self, title: str, label_config: str) -> int:
        """Return the id of a new project."""
        body = {"title": title, "label_config": label_config}
        made = self._api.call("POST", "api/projects/", body, retries=0)
        return int(self._api.object(made, {"id": int})["id"])

    def upload(self, project_id: int, files: Mapping[str, bytes]) -> int:
        """Make a task of each file; return how many were made. Never retried: tasks would double.

        Args:
            project_id: The project.
            files: The bytes of each file by its name; Label Studio takes at most 100 files and
                250 MB in one call, and keeps letters, digits, "-", "_" and "." of a name.
        """
        made = self._api.upload(f"api/projects/{project_id}/import", files)
        return int(self._api.object(made, {"task_count": int})["task_count"])
