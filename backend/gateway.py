"""Label Studio, as this service needs it: the only importer of label_studio_sdk.

Facts about Label Studio 1.23.2 that shape this file: the lowest prediction score is served first;
bulk import is not one transaction; a PATCH of a backend entry reaches our own /setup; GET of a
single task would call our own /predict, so tasks are always listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from label_studio_sdk import LabelStudio as Client
from label_studio_sdk.core.api_error import ApiError

from backend.errors import LabelStudioError, NotFound, Unauthorized, Unreachable
from backend.settings import Settings

PAGE = 1_000
IMPORT_CHUNK = 500
IDS_IN_ADDRESS = 100
OVERLAP_SECONDS = 5
QUEUE = "Uncertainty sampling"
# Importing 500 large masks takes Label Studio seconds, on a busy machine a minute.
TIMEOUT = httpx.Timeout(120.0, connect=5.0)


@dataclass(frozen=True)
class ProjectInfo:
    """What Label Studio says of a project, in one cheap call."""

    title: str
    label_config: str
    model_version: str
    sampling: str
    counters: dict[str, int]


@dataclass(frozen=True)
class QueueItem:
    """One scan of a queue: its task, and the draft to lay on it."""

    task: int
    result: list[dict[str, Any]]


class LabelStudio:
    """The calls this service makes; every failure comes out as a LabelStudioError."""

    def __init__(self, settings: Settings, client: httpx.Client | None = None) -> None:
        self._url = settings.label_studio_url
        self._http = client or httpx.Client(timeout=TIMEOUT, follow_redirects=True)
        with self._translated():
            self._client = Client(  # type: ignore[no-untyped-call]
                base_url=self._url, api_key=settings.api_key, httpx_client=self._http
            )

    # -- reading --------------------------------------------------------------------------------

    def project(self, project_id: int) -> ProjectInfo:
        """Return title, label config, queue switch and the counters that the timer compares."""
        counters = (
            "task_number",
            "total_annotations_number",
            "skipped_annotations_number",
            "ground_truth_number",
        )
        fields = ["title", "label_config", "model_version", "sampling", *counters]
        found = self._call(
            "GET", f"api/projects/{project_id}", params={"include": ",".join(fields)}
        )
        return ProjectInfo(
            title=str(found.get("title") or ""),
            label_config=str(found.get("label_config") or ""),
            model_version=str(found.get("model_version") or ""),
            sampling=str(found.get("sampling") or ""),
            counters={name: int(found.get(name) or 0) for name in counters},
        )

    def exists(self, project_id: int) -> bool:
        """Return whether there is such a project; True as long as Label Studio cannot be asked."""
        try:
            self.project(project_id)
        except NotFound:
            return False
        except LabelStudioError:
            return True
        return True

    def newest_update(self, project_id: int) -> str:
        """Return when a task of the project last changed, "" when it has none."""
        page = self._tasks_page(project_id, ["-tasks:updated_at"], size=1, fields="id,updated_at")
        return str(page["tasks"][0]["updated_at"]) if page["tasks"] else ""

    def tasks(self, project_id: int, *, since: str = "") -> Iterator[list[dict[str, Any]]]:
        """Yield pages of tasks with data and counts; only those changed `since`.

        A page starts behind the last id of the one before: by number, a task that is deleted
        meanwhile would push another one out of sight.
        """
        changed = []
        if since:
            moment = _shortly_before(since)
            changed = [_filter("updated_at", "greater_or_equal", "Datetime", moment)]
        last, left = 0, 1
        while left:
            behind = _filter("id", "greater", "Number", last)
            page = self._tasks_page(project_id, ["tasks:id"], filters=[behind, *changed])
            if not page["tasks"]:
                return
            last, left = page["tasks"][-1]["id"], int(page["total"]) - len(page["tasks"])
            yield page["tasks"]

    def annotations(self, project_id: int, task_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield every submitted annotation of these tasks, skips among them, drafts not."""
        for start in range(0, len(task_ids), IDS_IN_ADDRESS):
            part = list(task_ids[start : start + IDS_IN_ADDRESS])
            # Not by export: of each one Label Studio keeps a copy on its disk for good.
            page = self._call(
                "GET",
                "api/tasks",
                params={
                    "project": project_id,
                    "page_size": len(part),
                    "fields": "all",
                    "query": json.dumps({"selectedItems": {"all": False, "included": part}}),
                },
            )
            for task in page["tasks"]:
                yield from ({**found, "task": task["id"]} for found in task["annotations"])

    def entries(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's backend entries; Label Studio calls our /health and /setup first."""
        found: list[dict[str, Any]] = self._call("GET", "api/ml", params={"project": project_id})
        return found

    def entry(self, project_id: int, answer: str) -> dict[str, Any]:
        """Return our entry: the one that holds what our /setup just answered.

        Raises:
            NotFound: When no entry, or more than one, holds it.
        """
        ours = [e for e in self.entries(project_id) if e.get("model_version") == answer]
        if len(ours) != 1:
            raise NotFound(
                f"Project {project_id} has {len(ours)} backend entries that are this service.",
                f"Run `python -m backend connect {project_id}` and delete other entries of it in "
                "Settings > Model.",
            )
        return ours[0]

    def version_count(self, project_id: int, version: str) -> int:
        """Return how many predictions Label Studio holds under a version."""
        return self.version_counts(project_id).get(version, 0)

    def version_counts(self, project_id: int) -> dict[str, int]:
        """Return the number of predictions under every version of a project."""
        found = self._call(
            "GET", f"api/projects/{project_id}/model-versions/", params={"extended": "true"}
        )
        return {row["model_version"]: int(row["count"]) for row in found["static"]}

    # -- publishing -----------------------------------------------------------------------------

    def import_queue(self, project_id: int, version: str, queue: Sequence[QueueItem]) -> None:
        """Write one prediction a scan, first scan lowest score; never repeated by itself.

        A repeated import would leave two predictions of one version on a task, which corrupts
        Label Studio's order, so the caller verifies the count and takes a new name after a doubt.
        """
        for start in range(0, len(queue), IMPORT_CHUNK):
            rows = [
                {
                    "task": item.task,
                    "score": score(start + offset, len(queue)),
                    "model_version": version,
                    "result": item.result,
                }
                for offset, item in enumerate(queue[start : start + IMPORT_CHUNK])
            ]
            self._call("POST", f"api/projects/{project_id}/import/predictions", rows, retries=0)

    def switch(self, project_id: int, version: str) -> None:
        """Serve the queue by this version's scores, from this moment on."""
        self._call(
            "PATCH", f"api/projects/{project_id}", {"model_version": version, "sampling": QUEUE}
        )

    def rename(self, entry: Mapping[str, Any], version: str, auth: Mapping[str, Any]) -> None:
        """Give our entry the version as its title, so that scans beyond the horizon ask us.

        All fields are sent: a partial PATCH reaches our /setup without options and credentials.
        """
        fields = {
            "title": version,
            "url": entry["url"],
            "project": entry["project"],
            "extra_params": entry.get("extra_params"),
            **auth,
        }
        self._call("PATCH", f"api/ml/{entry['id']}", fields)

    def delete_version(self, project_id: int, version: str) -> None:
        """Remove a version's predictions. A SQLite Label Studio stands still for that long."""
        self._call(
            "DELETE",
            f"api/projects/{project_id}/model-versions/",
            {"model_version": version},
        )

    # -- connecting -----------------------------------------------------------------------------

    def connect(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Create or mend the entry with this project and url; return it."""
        existing = [e for e in self.entries(fields["project"]) if e["url"] == fields["url"]]
        if existing:
            title = existing[0].get("title") or fields["title"]
            path, method = f"api/ml/{existing[0]['id']}", "PATCH"
            return dict(self._call(method, path, {**fields, "title": title}, retries=0))
        return dict(self._call("POST", "api/ml", fields, retries=0))

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's webhooks."""
        found: list[dict[str, Any]] = self._call(
            "GET", "api/webhooks/", params={"project": project_id}
        )
        return found

    def ensure_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> None:
        """Make sure that exactly this address hears of every change, with these headers."""
        fields = {
            "url": url,
            "project": project_id,
            "send_payload": True,
            "send_for_all_actions": True,
            "headers": dict(headers),
            "is_active": True,
        }
        ours = [hook for hook in self.webhooks(project_id) if hook["url"] == url]
        if ours:
            self._call("PATCH", f"api/webhooks/{ours[0]['id']}/", fields)
        else:
            self._call("POST", "api/webhooks/", fields, retries=0)

    def authorisation(self) -> dict[str, str]:
        """Return the header that lets a plain GET fetch an image; a personal token is exchanged."""
        with self._translated():
            headers = self._client._client_wrapper.get_headers()
            return {"Authorization": headers["Authorization"]}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- one way out ----------------------------------------------------------------------------

    def _tasks_page(
        self,
        project_id: int,
        ordering: list[str],
        *,
        filters: Sequence[Mapping[str, Any]] = (),
        size: int = PAGE,
        fields: str = "id,data,updated_at,is_labeled,total_annotations,cancelled_annotations",
    ) -> dict[str, Any]:
        query: dict[str, Any] = {"ordering": ordering}
        if filters:
            query["filters"] = {"conjunction": "and", "items": list(filters)}
        found: dict[str, Any] = self._call(
            "GET",
            "api/tasks",
            params={
                "project": project_id,
                "page": 1,
                "page_size": size,
                "include": fields,
                "query": json.dumps(query),
            },
        )
        return found

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, Any] | None = None,
        retries: int = 2,
    ) -> Any:
        with self._translated():
            response = self._client._client_wrapper.httpx_client.request(
                path,
                method=method,
                json=body,
                params=dict(params or {}),
                request_options={"max_retries": retries},
            )
            if response.status_code >= 400:
                # A refused queue would be quoted back with what is drawn on it.
                detail = response.reason_phrase if isinstance(body, list) else _detail(response)
                raise ApiError(status_code=response.status_code, body=detail)
            return response.json() if response.content else None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the SDK and the network raise into one of our errors."""
        try:
            yield
        except ApiError as error:
            raise self._api_error(error) from None
        except httpx.HTTPError as error:
            raise Unreachable(
                f"Label Studio at {self._url} did not answer ({type(error).__name__}).",
                "Is it running, and is LABEL_STUDIO_URL right? It is asked again by itself.",
            ) from None
        except ValueError:
            raise Unreachable(
                f"{self._url} answered something that is not Label Studio's API.",
                "Check LABEL_STUDIO_URL: the address of Label Studio itself, without /api.",
            ) from None

    def _api_error(self, error: ApiError) -> LabelStudioError:
        status, detail = error.status_code or 0, str(error.body or "")
        if status in {401, 403}:
            return Unauthorized(
                f"Label Studio refused the request ({status}): {detail}",
                "Check LABEL_STUDIO_API_KEY: a personal access token, or a legacy token where "
                "the organisation still allows them.",
            )
        if status == 404:
            return NotFound(
                f"Label Studio does not know what was asked for (404): {detail}",
                "Was the project or backend entry deleted? Connect it again.",
            )
        if status == 429 or status >= 500:
            return Unreachable(
                f"Label Studio answered {status}.", "See its log; it is asked again by itself."
            )
        return LabelStudioError(f"Label Studio refused the request ({status}): {detail}")


def score(position: int, number: int) -> float:
    """Return Label Studio's score of a queue position: in (0, 1), lowest served first."""
    return (position + 1) / (number + 1)


def _filter(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {
        "filter": f"filter:tasks:{column}",
        "operator": operator,
        "type": kind,
        "value": value,
    }


def _detail(response: httpx.Response) -> str:
    """Return Label Studio's own sentence about an error, and nothing else of the body."""
    try:
        body = response.json()
    except ValueError:
        return response.reason_phrase
    found = body.get("detail") if isinstance(body, dict) else body
    problems = body.get("validation_errors") if isinstance(body, dict) else None
    return str(problems or found or response.reason_phrase)[:300]


def _shortly_before(moment: str) -> str:
    """Return a time some seconds earlier, in the one notation that Label Studio's filter reads.

    A change stamped earlier may become visible later; to any other notation it answers 500.
    """
    earlier = datetime.fromisoformat(moment).astimezone(UTC) - timedelta(seconds=OVERLAP_SECONDS)
    return earlier.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
