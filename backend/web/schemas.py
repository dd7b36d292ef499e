"""What Label Studio sends, read tolerantly: a malformed field counts as absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# "1" or "1.1795391735": Label Studio appends the project's time of creation.
_ID = re.compile(r"([0-9]{1,10})(?:\.[0-9]*)?")
_LONGEST_ADDRESS = 255
_MOST = 2**31 - 1  # the largest INTEGER of PostgreSQL


def identifier(value: object) -> int | None:
    """Return the id in a number, a string or an object with an `id`; None without an id."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    match = _ID.fullmatch(str(value).strip())
    number = int(match[1]) if match else 0
    return number if 0 < number <= _MOST else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _address(value: object) -> str:
    """Return a web address without slashes at its end, "" for anything else."""
    text = _text(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    fine = parts.scheme in {"http", "https"} and parts.hostname and len(text) <= _LONGEST_ADDRESS
    # No database stores a lone surrogate or a zero byte.
    return text if fine and text.isprintable() else ""


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tasks(value: object) -> list[TaskIn | None]:
    given = [value] if isinstance(value, dict) else value
    return [TaskIn.read(task) for task in given] if isinstance(given, list) else []


def _context(value: object) -> dict[str, Any] | None:
    context = _object(value).get("context")
    return context if isinstance(context, dict) else None


Id = Annotated[int | None, BeforeValidator(identifier)]
Text = Annotated[str, BeforeValidator(_text)]
Object = Annotated[dict[str, Any], BeforeValidator(_object)]
Address = Annotated[str, BeforeValidator(_address)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskIn(_Message):
    """A task as Label Studio sends it to /predict."""

    id: int
    data: Object = Field(default_factory=dict)
    updated_at: Text = ""

    @classmethod
    def read(cls, value: object) -> Self | None:
        """Return the task, or None when it is not an object with an id."""
        number = identifier(value) if isinstance(value, dict) else None
        return None if number is None else cls.model_validate({**_object(value), "id": number})


class SetupIn(_Message):
    """POST /setup. Its access_token is never read."""

    project: Id = None
    label_config: Text = Field(default="", alias="schema")
    hostname: Address = ""
    extra_params: Any = None


class PredictIn(_Message):
    """POST /predict: one entry a task, None for a malformed task.

    A request of a smart tool has a context: the clicks or boxes on the one task that it holds.
    """

    project: Id = None
    label_config: Text = ""
    context: Annotated[dict[str, Any] | None, BeforeValidator(_context)] = Field(
        default=None, alias="params"
    )
    tasks: Annotated[list[TaskIn | None], BeforeValidator(_tasks)] = Field(default_factory=list)


class WebhookIn(_Message):
    """POST /webhook: the event, its project, and the labelling interface if it was sent."""

    action: Text = ""
    project: Id = None
    label_config: Text = ""

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Return the event; releases of Label Studio put the project into different places."""
        places = (
            body.get("project"),
            body.get("project_id"),
            _object(body.get("task")).get("project"),
            _object(body.get("annotation")).get("project"),
        )
        return cls(
            action=_text(body.get("action")),
            project=next(filter(None, map(identifier, places)), None),
            label_config=_text(_object(body.get("project")).get("label_config")),
        )

    @property
    def is_of_webhook(self) -> bool:
        """Whether a webhook sent it; the button Start Training sends the entry's password."""
        return self.action != "START_TRAINING"

    @property
    def changes_tasks(self) -> bool:
        """Whether tasks were created, changed or deleted."""
        return self.action.startswith(("TASK_", "TASKS_"))

    @property
    def deletes_tasks(self) -> bool:
        """Whether tasks may have been deleted, so that the worker has to list all of them."""
        return self.changes_tasks and not self.action.endswith("_CREATED")

    @property
    def changes_labels(self) -> bool:
        """Whether annotations were created, changed or deleted."""
        return self.action.startswith(("ANNOTATION_", "ANNOTATIONS_"))


class JobIn(_Message):
    """POST /job_status: the job in the answer to START_TRAINING."""

    job: Text = ""

    @property
    def parts(self) -> tuple[int, int] | None:
        """The project's id and the requested revision; None if the job is not ours."""
        project, _, number = self.job.partition(".")
        project_id, revision = identifier(project), identifier(number)
        return None if project_id is None or revision is None else (project_id, revision)


def job(project_id: int, revision: int) -> str:
    """Return the name of a job: the project's id and the requested revision."""
    return f"{project_id}.{revision}"
