"""A small Label Studio that lives in memory, as the handler of an httpx.MockTransport.

It answers as Label Studio 1.23.2 does, with what this service asks for, and fails when told to.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

URL = "http://label-studio"
TOKEN = "0123456789abcdef"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
    '<Label value="Lung"/></BrushLabels></View>'
)
MOMENT = "%Y-%m-%dT%H:%M:%S.%fZ"
Json = dict[str, Any]
Answer = httpx.Response


@dataclass
class Failure:
    """What the next calls of a path get instead of their answer."""

    method: str
    path: str
    after: int  # calls that still pass
    times: int
    answer: int | type[httpx.TransportError]
    detail: str


@dataclass
class FakeProject:
    title: str = "Lungs"
    label_config: str = CONFIG
    model_version: str = ""
    sampling: str = "Sequential sampling"
    tasks: dict[int, Json] = field(default_factory=dict)
    annotations: dict[int, Json] = field(default_factory=dict)
    predictions: list[Json] = field(default_factory=list)


class FakeLabelStudio:
    """Projects, tasks, annotations, predictions, backend entries, webhooks and tabs.

    Attributes:
        setup: Stands for our /setup: project id to the version it answers.
        requests: Method and path of every call, in order.
        files: Path to the bytes that are served there.
        users: The people of the organisation.
        cut_import_after: The next import stores this many rows, then the connection breaks.
        restore_title: The next PATCH of an entry is undone by a save that came in between.
        locked: The next request finds the database locked at its end, and is run once more.
        answers: What another service than ours answers, by its address.
        unreachable: Addresses at which no backend answers; the entry keeps what it held.
        away: Answers every request instead, as a proxy does before a server that is down.
        banned: Reasons by which addresses are refused, for `ml` and `webhooks`.
        fast_import: Whether it was started with the flag of the fast import.
        local_files: Whether it was started to serve local files.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.setup: Callable[[int], str] = lambda project_id: "unknown"
        self.projects: dict[int, FakeProject] = {}
        self.entries: dict[int, Json] = {}
        self.webhooks: dict[int, Json] = {}
        self.tabs: dict[int, Json] = {}
        self.files: dict[str, bytes] = {}
        self.users: list[Json] = [{"id": 1, "email": "first@example.org"}]
        self.requests: list[tuple[str, str]] = []
        self.imports: list[list[Json]] = []
        self.cut_import_after: int | None = None
        self.restore_title = False
        self.locked = False
        self.answers: dict[str, str] = {}
        self.unreachable: set[str] = set()
        self.banned: dict[str, tuple[int, str]] = {}
        self.fast_import = True
        self.local_files = True
        self.page_size_limit = 10_000
        self.away: Callable[[httpx.Request], Answer] | None = None
        self._failures: list[Failure] = []
        self._last = 0.0
        self._number = 0

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self))

    # -- what people do -------------------------------------------------------------------------

    def add_project(self, label_config: str = CONFIG) -> int:
        number = len(self.projects) + 1
        self.projects[number] = FakeProject(label_config=label_config)
        return number

    def start_after(self, number: int) -> None:
        """Give the next thing that is made an id above this one."""
        self._number = number

    def connect(self, project_id: int, extra_params: object = None, url: str = "http://us") -> Json:
        entry: Json = {
            "id": self._next(),
            "project": project_id,
            "url": url,
            "title": "Firstlight",
            "extra_params": extra_params,
            "auth_method": "NONE",
            "model_version": "",
            "state": "CO",
            "readable_state": "Connected",
            "error_message": None,
        }
        self.entries[entry["id"]] = entry
        return entry

    def add_task(
        self, project_id: int, image: NDArray[Any] | bytes | None = None, **data: Any
    ) -> int:
        number = self._next()
        path = f"/data/upload/{project_id}/{number}.png"
        if image is not None:
            self.files[path] = image if isinstance(image, bytes) else png(image)
        self.projects[project_id].tasks[number] = {
            "id": number,
            "data": {"image": path, **data},
            "updated_at": self._moment(),
            "overlap": 1,
        }
        return number

    def change_data(self, task_id: int, **data: Any) -> None:
        task = self._task(task_id)
        task["data"] |= data
        task["updated_at"] = self._moment()

    def delete_task(self, task_id: int) -> None:
        project = self._project_of(task_id)
        del project.tasks[task_id]
        kept = {n: a for n, a in project.annotations.items() if a["task"] != task_id}
        project.annotations = kept
        project.predictions = [p for p in project.predictions if p["task"] != task_id]

    def annotate(
        self,
        task_id: int,
        result: object = (),
        *,
        skip: bool = False,
        ground_truth: bool = False,
        by: object = 1,
        seconds: float | None = None,
    ) -> int:
        project, number, now = self._project_of(task_id), self._next(), self._moment()
        project.annotations[number] = {
            "id": number,
            "task": task_id,
            "result": list(result) if isinstance(result, tuple) else result,
            "was_cancelled": skip,
            "ground_truth": ground_truth,
            "completed_by": by,
            "lead_time": seconds,
            "created_at": now,
            "updated_at": now,
        }
        project.tasks[task_id]["updated_at"] = self._moment()
        return number

    def change_annotation(self, annotation_id: int, **values: Any) -> None:
        annotation = self._annotation(annotation_id)
        annotation |= {**values, "updated_at": self._moment()}
        self._task(annotation["task"])["updated_at"] = self._moment()

    def remove_duplicate(self, kept: int, removed: int) -> None:
        """Do what *Remove Duplicated Tasks* does: annotations move, and keep all their times."""
        for found in self._project_of(removed).annotations.values():
            if found["task"] == removed:
                found["task"] = kept
        self.delete_task(removed)

    def backup(self) -> tuple[Any, ...]:
        """Return all that Label Studio's database holds."""
        state = (self.projects, self.entries, self.webhooks, self.tabs, self._number)
        return copy.deepcopy(state)

    def restore(self, backup: tuple[Any, ...]) -> None:
        """Put a backup back: what came later is gone, and its ids are given out again."""
        state = copy.deepcopy(backup)
        self.projects, self.entries, self.webhooks, self.tabs, self._number = state

    def delete_annotation(self, annotation_id: int) -> None:
        task_id = self._annotation(annotation_id)["task"]
        del self._project_of(task_id).annotations[annotation_id]
        self._task(task_id)["updated_at"] = self._moment()

    def change_tab(self, named: str, **data: Any) -> None:
        [tab] = [tab for tab in self.tabs.values() if tab["data"]["title"] == named]
        tab["data"] = {**tab["data"], **data}

    def fail(
        self,
        method: str,
        path: str,
        answer: int | type[httpx.TransportError] = 503,
        *,
        after: int = 0,
        times: int = 1,
        detail: str = "no",
    ) -> None:
        """Let calls fail whose path matches, after so many of them passed; "" is any method."""
        self._failures.append(Failure(method, path, after, times, answer, detail))

    def heal(self) -> None:
        self._failures.clear()

    # -- what an annotator sees -----------------------------------------------------------------

    def is_labeled(self, task_id: int) -> bool:
        found = self._project_of(task_id).annotations.values()
        own = [a for a in found if a["task"] == task_id and not a["was_cancelled"]]
        return len(own) >= int(self._task(task_id)["overlap"])

    def served(self, project_id: int) -> list[int]:
        """Return the open tasks of the live version, in the order in which they are served."""
        project = self.projects[project_id]
        scores: dict[int, float] = {}
        for row in project.predictions:
            if row["model_version"] == project.model_version and not self.is_labeled(row["task"]):
                scores[row["task"]] = min(row["score"], scores.get(row["task"], 1.0))
        return sorted(scores, key=lambda task: scores[task])

    def prelabel(self, project_id: int, task_id: int) -> Any:
        project = self.projects[project_id]
        return next(
            row["result"]
            for row in project.predictions
            if row["task"] == task_id and row["model_version"] == project.model_version
        )

    def versions(self, project_id: int) -> Counter[str]:
        return Counter(row["model_version"] for row in self.projects[project_id].predictions)

    def calls(self, method: str, path: str) -> int:
        return sum(m == method and bool(re.search(path, p)) for m, p in self.requests)

    # -- HTTP -----------------------------------------------------------------------------------

    def __call__(self, request: httpx.Request) -> Answer:
        method, path = request.method, request.url.path
        if request.url.params.get("fields") == "all":
            path = "/api/tasks/whole"  # told apart here: with annotations and all they hold
        self.requests.append((method, path))
        if self.away is not None:
            return self.away(request)
        failed = self._failed(method, path, request)
        if failed is not None:
            return failed
        if path == "/api/version":
            return Answer(200, json={"release": "1.23.2"})
        if request.headers.get("authorization") != f"Token {TOKEN}":
            return error(401, "Invalid token.")
        if path in self.files:
            return Answer(200, content=self.files[path])
        if self.locked and method != "GET":
            self.locked = False
            self._handle(request, f"{method} {path.rstrip('/')}")
        return self._handle(request, f"{method} {path.rstrip('/')}")

    def _handle(self, request: httpx.Request, what: str) -> Answer:
        for pattern, handle in self._routes().items():
            match = re.fullmatch(pattern, what)
            if match:
                return handle(request, *(int(part) for part in match.groups()))
        return error(404, "Not found.")

    def _routes(self) -> dict[str, Callable[..., Answer]]:
        return {
            r"GET /api/projects": self._get_projects,
            r"POST /api/projects": self._post_project,
            r"GET /api/projects/(\d+)": self._get_project,
            r"PATCH /api/projects/(\d+)": self._patch_project,
            r"GET /api/tasks": self._get_tasks,
            r"GET /api/tasks/whole": self._get_whole_tasks,
            r"PATCH /api/tasks/(\d+)": self._patch_task,
            r"POST /api/projects/(\d+)/import/predictions": self._import,
            r"GET /api/projects/(\d+)/model-versions": self._get_versions,
            r"DELETE /api/projects/(\d+)/model-versions": self._delete_version,
            r"GET /api/current-user/whoami": lambda request: Answer(200, json={"id": 1}),
            r"GET /api/users": lambda request: Answer(200, json=self.users),
            r"GET /api/ml": self._get_entries,
            r"POST /api/ml": self._post_entry,
            r"PATCH /api/ml/(\d+)": self._patch_entry,
            r"DELETE /api/ml/(\d+)": self._delete_entry,
            r"GET /api/webhooks": self._get_webhooks,
            r"POST /api/webhooks": self._post_webhook,
            r"PATCH /api/webhooks/(\d+)": self._patch_webhook,
            r"DELETE /api/webhooks/(\d+)": self._delete_webhook,
            r"GET /api/dm/views": self._get_tabs,
            r"POST /api/dm/views": self._post_tab,
            r"DELETE /api/dm/views/(\d+)": self._delete_tab,
        }

    def _failed(self, method: str, path: str, request: httpx.Request) -> Answer | None:
        if path.startswith("/data/local-files/") and not self.local_files:
            return Answer(403, text="You can enable it with LOCAL_FILES_SERVING_ENABLED")
        for failure in self._failures:
            if (
                failure.method not in ("", method)
                or not re.search(failure.path, path)
                or not failure.times
            ):
                continue
            if failure.after:
                failure.after -= 1
                continue
            failure.times -= 1
            if isinstance(failure.answer, int):
                return error(failure.answer, failure.detail)
            raise failure.answer(failure.detail, request=request)
        return None

    def _get_projects(self, request: httpx.Request) -> Answer:
        size, asked = int(request.url.params["page_size"]), request.url.params.get("title", "")
        found = [
            {"id": number, "title": project.title}
            for number, project in sorted(self.projects.items(), reverse=True)
            if asked.lower() in project.title.lower()
        ]
        return Answer(200, json={"results": found[:size]})

    def _post_project(self, request: httpx.Request) -> Answer:
        number = self.add_project()
        for name, value in json.loads(request.content).items():
            setattr(self.projects[number], name, value)
        return Answer(201, json={"id": number})

    def _get_project(self, request: httpx.Request, project_id: int) -> Answer:
        project = self.projects.get(project_id)
        if project is None:
            return error(404, "No Project matches the given query.")
        annotations = project.annotations.values()
        whole = {
            "title": project.title,
            "label_config": project.label_config,
            "model_version": project.model_version,
            "sampling": project.sampling,
            "task_number": len(project.tasks),
            "total_annotations_number": sum(not a["was_cancelled"] for a in annotations),
            "skipped_annotations_number": sum(a["was_cancelled"] for a in annotations),
            "ground_truth_number": sum(a["ground_truth"] for a in annotations),
        }
        wanted = request.url.params["include"].split(",")
        return Answer(200, json={name: whole[name] for name in wanted})

    def _patch_project(self, request: httpx.Request, project_id: int) -> Answer:
        project, body = self.projects[project_id], json.loads(request.content)
        if "label_config" in body:
            project.label_config = body["label_config"]
            return Answer(200, json={})
        titles = {e["title"] for e in self.entries.values() if e["project"] == project_id}
        if body["model_version"] not in titles | self.versions(project_id).keys():
            return error(400, "Model version doesn't exist")
        project.model_version, project.sampling = body["model_version"], body["sampling"]
        return Answer(200, json={})

    def _get_tasks(self, request: httpx.Request) -> Answer:
        params = request.url.params
        project = self.projects.get(int(params["project"]))
        if project is None:
            return error(404, "No Project matches the given query.")
        query = json.loads(params["query"])
        [order] = query["ordering"]
        tasks = sorted(
            project.tasks.values(),
            key=lambda task: task[order.removeprefix("-").removeprefix("tasks:")],
            reverse=order.startswith("-"),
        )
        for item in query.get("filters", {}).get("items", []):
            tasks = [task for task in tasks if passes(self._listed(task), item)]
        size = min(int(params["page_size"]), self.page_size_limit)
        start = (int(params["page"]) - 1) * size
        if start and start >= len(tasks):
            return error(404, "Invalid page.")
        shown = [self._listed(task) for task in tasks[start : start + size]]
        wanted = params["include"].split(",")
        page = [{name: task[name] for name in wanted} for task in shown]
        return Answer(200, json={"total": len(tasks), "tasks": page})

    def _listed(self, task: Json) -> Json:
        found = self._project_of(task["id"]).annotations.values()
        skipped = [a["was_cancelled"] for a in found if a["task"] == task["id"]]
        return {
            **task,
            "is_labeled": self.is_labeled(task["id"]),
            "total_annotations": skipped.count(False),
            "cancelled_annotations": skipped.count(True),
            "predictions_model_versions": [
                row["model_version"]
                for row in self._project_of(task["id"]).predictions
                if row["task"] == task["id"]
            ],
        }

    def _patch_task(self, request: httpx.Request, task_id: int) -> Answer:
        self._task(task_id).update(json.loads(request.content), updated_at=self._moment())
        return Answer(200, json={})

    def _get_whole_tasks(self, request: httpx.Request) -> Answer:
        query = json.loads(request.url.params["query"])
        wanted = query["selectedItems"]["included"]
        assert len(wanted) <= int(request.url.params["page_size"])
        project = self.projects[int(request.url.params["project"])]
        found = project.annotations.values()
        tasks = [
            {"id": i, "annotations": [a for a in found if a["task"] == i]}
            for i in wanted
            if i in project.tasks
        ]
        return Answer(200, json={"total": len(tasks), "tasks": tasks})

    def _import(self, request: httpx.Request, project_id: int) -> Answer:
        project, rows = self.projects[project_id], json.loads(request.content)
        self.imports.append(rows)
        unknown = [row["task"] for row in rows if row["task"] not in project.tasks]
        if unknown and self.fast_import:
            return error(400, f"task ID {unknown[0]} not found in project")
        if unknown:
            return error(400, "corresponding task ID couldn't be retrieved from project")
        cut, self.cut_import_after = self.cut_import_after, None
        project.predictions += rows[:cut]
        if cut is not None:
            raise httpx.ReadTimeout("cut off", request=request)
        return Answer(201, json={"created": len(rows)})

    def _get_versions(self, request: httpx.Request, project_id: int) -> Answer:
        counts = self.versions(project_id).items()
        static = [{"model_version": name, "count": count} for name, count in counts]
        return Answer(200, json={"static": static, "live": None})

    def _delete_version(self, request: httpx.Request, project_id: int) -> Answer:
        project, gone = self.projects[project_id], json.loads(request.content)["model_version"]
        kept = [row for row in project.predictions if row["model_version"] != gone]
        number = len(project.predictions) - len(kept)
        project.predictions = kept
        titles = {e["title"] for e in self.entries.values() if e["project"] == project_id}
        if project.model_version in {gone, *titles}:
            project.model_version = ""
        return Answer(200, json={"deleted_predictions": number})

    def _get_entries(self, request: httpx.Request) -> Answer:
        project_id = int(request.url.params["project"])
        if project_id not in self.projects:
            return error(404, "No Project matches the given query.")
        found = [e for e in self.entries.values() if e["project"] == project_id]
        for entry in found:
            self._ask(entry)
        return Answer(200, json=found)

    def _ask(self, entry: Json) -> None:
        """Call a backend's /setup, as before every answer about its entry."""
        there = entry["url"] not in self.unreachable
        entry["state"] = "CO" if there else "DI"
        entry["readable_state"] = "Connected" if there else "Disconnected"
        if there:
            others = self.answers.get(entry["url"])
            entry["model_version"] = others or self.setup(entry["project"])

    def _refused(self, kind: str, body: Json) -> Answer | None:
        """Refuse an address, or a project that is not there: in this order, as all serializers."""
        if kind in self.banned:
            return error(*self.banned[kind])
        if body["project"] not in self.projects:
            reason = f'Invalid pk "{body["project"]}" - object does not exist.'
            return Answer(400, json={"validation_errors": {"project": [reason]}})
        return None

    def _post_entry(self, request: httpx.Request) -> Answer:
        body = json.loads(request.content)
        if refused := self._refused("ml", body):
            return refused
        entry = self.connect(body["project"], body.get("extra_params"), body["url"])
        entry |= body
        project = self.projects[body["project"]]
        project.model_version = project.model_version or entry["title"]
        return Answer(201, json=entry)

    def _patch_entry(self, request: httpx.Request, entry_id: int) -> Answer:
        entry, body = self.entries[entry_id], json.loads(request.content)
        if "url" not in body:
            return error(500, "no url")
        project, old = self.projects[entry["project"]], entry["title"]
        entry |= body
        if project.model_version == old:
            project.model_version = body["title"]
        if self.restore_title:
            self.restore_title, entry["title"] = False, old
        return Answer(200, json=entry)

    def _delete_entry(self, request: httpx.Request, entry_id: int) -> Answer:
        if entry_id not in self.entries:
            return error(404, "No MLBackend matches the given query.")
        self._ask(self.entries[entry_id])
        gone = self.entries.pop(entry_id)
        project = self.projects[gone["project"]]
        if project.model_version == gone["title"]:
            project.model_version = ""
        return Answer(204)

    def _get_webhooks(self, request: httpx.Request) -> Answer:
        project_id = int(request.url.params["project"])
        found = [hook for hook in self.webhooks.values() if hook["project"] == project_id]
        return Answer(200, json=found)

    def _post_webhook(self, request: httpx.Request) -> Answer:
        body = json.loads(request.content)
        if refused := self._refused("webhooks", body):
            return refused
        hook = {"id": self._next(), "actions": [], **body}
        self.webhooks[hook["id"]] = hook
        return Answer(201, json=hook)

    def _patch_webhook(self, request: httpx.Request, hook_id: int) -> Answer:
        self.webhooks[hook_id] |= json.loads(request.content)
        return Answer(200, json=self.webhooks[hook_id])

    def _delete_webhook(self, request: httpx.Request, hook_id: int) -> Answer:
        found = self.webhooks.pop(hook_id, None)
        return Answer(204) if found else error(404, "No Webhook matches the given query.")

    def _get_tabs(self, request: httpx.Request) -> Answer:
        project_id = int(request.url.params["project"])
        return Answer(200, json=[t for t in self.tabs.values() if t["project"] == project_id])

    def _post_tab(self, request: httpx.Request) -> Answer:
        tab = {"id": self._next(), **json.loads(request.content)}
        self.tabs[tab["id"]] = tab
        return Answer(201, json=tab)

    def _delete_tab(self, request: httpx.Request, tab_id: int) -> Answer:
        return Answer(204) if self.tabs.pop(tab_id, None) else error(404, "Not found.")

    # -- small things ---------------------------------------------------------------------------

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _moment(self) -> str:
        now = self.clock()
        # Two changes have two times, unless the clock was set back.
        self._last = now if now < self._last - 60 else max(self._last + 1e-5, now)
        return datetime.fromtimestamp(self._last, UTC).strftime(MOMENT)

    def _project_of(self, task_id: int) -> FakeProject:
        return next(p for p in self.projects.values() if task_id in p.tasks)

    def _task(self, task_id: int) -> Json:
        return self._project_of(task_id).tasks[task_id]

    def _annotation(self, annotation_id: int) -> Json:
        return next(
            p.annotations[annotation_id]
            for p in self.projects.values()
            if annotation_id in p.annotations
        )


def error(status: int, detail: str) -> Answer:
    return Answer(status, json={"status_code": status, "detail": detail})


def passes(task: Json, item: Json) -> bool:
    value = task[item["filter"].removeprefix("filter:tasks:")]
    if item["type"] == "Datetime":
        datetime.strptime(item["value"], MOMENT)  # Label Studio answers 500 to any other notation
    if item["operator"] == "greater_or_equal":
        return bool(value >= item["value"])
    if item["operator"] == "contains":
        return any(part in version for part in item["value"] for version in value)
    if item["operator"] == "less":
        return bool(value < item["value"])
    return bool(value > item["value"])


def png(image: NDArray[Any]) -> bytes:
    """Return an image in [0, 1] as a grey PNG."""
    file = BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
