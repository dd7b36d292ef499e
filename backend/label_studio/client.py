"""The calls to Label Studio that this service needs, and the fields it reads of the answers.

Facts about Label Studio 1.23.2 that shape this file: the lowest prediction score is served first;
bulk import is not one transaction; a PATCH of a backend entry reaches our own /setup; GET of a
single task would call our own /predict, so tasks are always listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from backend import PROGRAM
from backend.errors import LabelStudioError, NotFound, Unreachable
from backend.label_studio.moments import shortly_before
from backend.label_studio.queue_import import QueueItem, parts, score
from backend.label_studio.transport import Fields, Transport
from backend.settings import Settings

PAGE = 1_000
# In one call: their ids fit into an address, and their masks into some 10 MB.
TASKS_WITH_MASKS = 50
QUEUE = "Uncertainty sampling"

_MAYBE_TEXT, _FLAG = (str, type(None)), (bool, int)
_TASK: Fields = {
    "id": int,
    "data": (dict, type(None)),
    "updated_at": str,
    "is_labeled": _FLAG,
    "total_annotations": int,
    "cancelled_annotations": int,
    "overlap": (int, type(None)),
}
_TASK_FIELDS = ",".join(_TASK)
_ANNOTATION: Fields = {
    "id": int,
    "result": (list, type(None)),
    "was_cancelled": _FLAG,
    "ground_truth": _FLAG,
    "created_at": str,
    "updated_at": str,
}
_ENTRY: Fields = {
    "id": int,
    "url": str,
    "project": int,
    "title": _MAYBE_TEXT,
    "model_version": _MAYBE_TEXT,
}
_WEBHOOK: Fields = {"id": int, "url": str, "project": (int, type(None))}
_TAB: Fields = {"id": int, "data": (dict, type(None))}


@dataclass(frozen=True)
class ProjectInfo:
    """A project as Label Studio describes it, in one cheap call."""

    title: str
    label_config: str
    model_version: str
    sampling: str
    counters: dict[str, int]


class LabelStudio:
    """The calls that this service makes; every failure raises a LabelStudioError."""

    def __init__(self, settings: Settings, client: httpx.Client | None = None) -> None:
        self._own = settings.public_url
        self._api = Transport(settings.label_studio_url, settings.api_key, client)

    @property
    def transport(self) -> Transport:
        """The requests themselves, for the calls of other modules of this package."""
        return self._api

    # -- access ---------------------------------------------------------------------------------

    @property
    def token_kind(self) -> str:
        """The kind of token in LABEL_STUDIO_API_KEY, in Label Studio's words."""
        return self._api.token.kind

    def server_version(self) -> str:
        """Return Label Studio's release; asked without the token.

        Raises:
            Unreachable: When Label Studio does not answer, or another server does.
        """
        answer = self._api.get_unsigned("api/version")
        release = answer.get("release") if isinstance(answer, dict) else None
        if not release:
            raise self._api.foreign()
        return str(release)

    def check_token(self) -> None:
        """Make sure that the token is accepted.

        Raises:
            Unauthorized: When it is not; the error says how to get a valid token.
        """
        self._api.call("GET", "api/current-user/whoami")

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
        found = self._api.object(
            self._api.call(
                "GET", f"api/projects/{project_id}", params={"include": ",".join(fields)}
            ),
            dict.fromkeys(counters, (int, type(None))),
        )
        return ProjectInfo(
            title=str(found.get("title") or ""),
            label_config=str(found.get("label_config") or ""),
            model_version=str(found.get("model_version") or ""),
            sampling=str(found.get("sampling") or ""),
            counters={name: int(found.get(name) or 0) for name in counters},
        )

    def has_vanished(self, project_id: int) -> bool:
        """Return whether a working Label Studio says that it has no such project.

        While Label Studio restarts, a proxy in front of it may answer 404 to everything. So the
        server must first tell its version and accept our token.
        """
        with suppress(LabelStudioError):
            self.server_version()
            self.check_token()
            try:
                self.project(project_id)
            except NotFound:
                return True
        return False

    def newest_update(self, project_id: int, *, before: str = "") -> str:
        """Return when a task of the project last changed, "" when it has none.

        Args:
            project_id: The project.
            before: Leave out changes at this time or later; "" leaves nothing out.
        """
        page = self._tasks_page(
            project_id,
            ["-tasks:updated_at"],
            filters=[_filter("updated_at", "less", "Datetime", before)] if before else [],
            size=1,
            fields="id,updated_at",
        )
        found = self._api.rows(page["tasks"], {"updated_at": str})
        return str(found[0]["updated_at"]) if found else ""

    def tasks(self, project_id: int, *, since: str = "") -> Iterator[list[dict[str, Any]]]:
        """Yield pages of tasks with data and counts; only those changed `since`.

        Each page starts after the last id of the page before. By page number, a task that is
        deleted meanwhile would make us skip another task.
        """
        changed = []
        if moment := shortly_before(since):
            changed = [_filter("updated_at", "greater_or_equal", "Datetime", moment)]
        last, left = 0, 1
        while left:
            behind = _filter("id", "greater", "Number", last)
            page = self._tasks_page(project_id, ["tasks:id"], filters=[behind, *changed])
            found = self._api.rows(page["tasks"], _TASK)
            if not found:
                return
            if found[-1]["id"] <= last:  # else the loop would never end
                raise self._api.foreign()
            last, left = found[-1]["id"], int(page["total"]) - len(found)
            yield found

    def annotations(self, project_id: int, task_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield every submitted annotation of these tasks, with skips and without drafts."""
        for start in range(0, len(task_ids), TASKS_WITH_MASKS):
            part = list(task_ids[start : start + TASKS_WITH_MASKS])
            # Not by export: Label Studio keeps a copy of every export on its disk for ever.
            page = self._api.call(
                "GET",
                "api/tasks",
                params={
                    "project": project_id,
                    "page_size": len(part),
                    "fields": "all",
                    "query": json.dumps({"selectedItems": {"all": False, "included": part}}),
                },
            )
            tasks = self._api.object(page, {"tasks": list})["tasks"]
            for task in self._api.rows(tasks, {"id": int, "annotations": list}):
                for found in self._api.rows(task["annotations"], _ANNOTATION):
                    yield {**found, "task": task["id"]}

    def user_names(self) -> dict[int, str]:
        """Return the e-mail address of every user by id, as in `completed_by`."""
        found = self._api.rows(self._api.call("GET", "api/users/"), {"id": int, "email": str})
        return {user["id"]: user["email"] for user in found}

    def entries(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's backend entries; Label Studio calls our /health and /setup first."""
        return self._api.rows(
            self._api.call("GET", "api/ml", params={"project": project_id}), _ENTRY
        )

    def entry(self, project_id: int, answer: str) -> dict[str, Any]:
        """Return our entry: it holds the answer that our /setup just gave.

        Raises:
            NotFound: When no entry, or more than one, holds that answer.
            Unreachable: When Label Studio could not call /setup at our address.
        """
        found = self.entries(project_id)
        ours = [e for e in found if e.get("model_version") == answer]
        unreached = [
            e for e in found if e["url"].rstrip("/") == self._own and e.get("state") != "CO"
        ]
        if unreached and not ours:
            raise Unreachable(
                f"Label Studio cannot reach this service at {self._own}.",
                f"Start its web process (`{PROGRAM} start`). The worker asks again by itself.",
            )
        if len(ours) != 1:
            raise NotFound(
                f"Project {project_id} has {len(ours)} backend entries of this service, not one.",
                f"Run `{PROGRAM} connect {project_id}`, and `{PROGRAM} doctor "
                f"{project_id} --fix` if there are several.",
            )
        return ours[0]

    def version_count(self, project_id: int, version: str) -> int:
        """Return how many predictions Label Studio holds under a version."""
        return self.version_counts(project_id).get(version, 0)

    def version_counts(self, project_id: int) -> dict[str, int]:
        """Return the number of predictions under every version of a project."""
        found = self._api.call(
            "GET", f"api/projects/{project_id}/model-versions/", params={"extended": "true"}
        )
        rows = self._api.object(found, {"static": list})["static"]
        counted = self._api.rows(rows, {"model_version": _MAYBE_TEXT, "count": int})
        return {row["model_version"]: row["count"] for row in counted}

    # -- publishing -----------------------------------------------------------------------------

    def import_queue(self, project_id: int, version: str, queue: Sequence[QueueItem]) -> None:
        """Write one prediction a scan, the first with the lowest score; never retried.

        A repeated import would leave two predictions of one version on a task, which corrupts
        Label Studio's order. So the caller verifies the count and in doubt takes a new name.
        """
        for chunk in parts(queue):
            rows = [
                {
                    "task": item.task,
                    "score": score(position, len(queue)),
                    "model_version": version,
                    "result": item.result,
                }
                for position, item in chunk
            ]
            self._api.call("POST", f"api/projects/{project_id}/import/predictions", rows, retries=0)

    def switch(self, project_id: int, version: str) -> None:
        """Serve the queue by this version's scores, from this moment on."""
        self._api.call(
            "PATCH", f"api/projects/{project_id}", {"model_version": version, "sampling": QUEUE}
        )

    def set_label_config(self, project_id: int, xml: str) -> None:
        """Store a labelling interface; Label Studio refuses it if annotations would lose labels."""
        self._api.call("PATCH", f"api/projects/{project_id}", {"label_config": xml})

    def set_interactive(self, entry: Mapping[str, Any], auth: Mapping[str, Any]) -> None:
        """Let Label Studio send the clicks of smart tools to our entry."""
        kept = {name: entry[name] for name in ("title", "url", "project")}
        self._api.call("PATCH", f"api/ml/{entry['id']}", {**kept, **auth, "is_interactive": True})

    def rename(self, entry: Mapping[str, Any], version: str, auth: Mapping[str, Any]) -> None:
        """Give our entry the version as its title, so that scans beyond the horizon ask us.

        The options are not sent, because somebody may have changed them since the entry was read.
        The credentials are, because Label Studio first calls our /setup with the sent fields.
        """
        fields = {"title": version, "url": entry["url"], "project": entry["project"], **auth}
        self._api.call("PATCH", f"api/ml/{entry['id']}", fields)

    def delete_version(self, project_id: int, version: str) -> None:
        """Remove a version's predictions; the project has to be switched again afterwards.

        On the deletion of any version Label Studio clears the project's model version, if that is
        the title of an entry. On SQLite it answers nobody until the predictions are deleted.
        """
        self._api.call(
            "DELETE",
            f"api/projects/{project_id}/model-versions/",
            {"model_version": version},
        )

    def require_annotations(self, task_id: int, number: int) -> None:
        """Let a task need so many annotations before it counts as done."""
        self._api.call("PATCH", f"api/tasks/{task_id}/", {"overlap": number})

    # -- connecting -----------------------------------------------------------------------------

    def connect(self, fields: Mapping[str, Any]) -> None:
        """Create or repair the one entry with this project and url."""
        found = self._entries_at(fields)
        if found:
            title = found[0].get("title") or fields["title"]
            self._api.call(
                "PATCH", f"api/ml/{found[0]['id']}", {**fields, "title": title}, retries=0
            )
        else:
            self._api.call("POST", "api/ml", fields, retries=0)
            # If its SQLite was locked, Label Studio repeats the request by itself, and may save a
            # second entry.
            found = self._entries_at(fields)
        for twin in found[1:]:
            self.remove_entry(twin["id"])

    def _entries_at(self, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        url = fields["url"].rstrip("/")
        return [e for e in self.entries(fields["project"]) if e["url"].rstrip("/") == url]

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's webhooks."""
        found = self._api.call("GET", "api/webhooks/", params={"project": project_id})
        return self._api.rows(found, _WEBHOOK)

    def ensure_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> None:
        """Make sure that exactly one webhook sends every event to this address."""
        fields = {
            "url": url,
            "project": project_id,
            "send_payload": True,
            "send_for_all_actions": True,
            "headers": dict(headers),
            "is_active": True,
        }
        ours = self._webhooks_to(project_id, url)
        if ours:
            self._api.call("PATCH", f"api/webhooks/{ours[0]['id']}/", fields)
        else:
            self._api.call("POST", "api/webhooks/", fields, retries=0)
            ours = self._webhooks_to(project_id, url)
        for twin in ours[1:]:
            self._api.call("DELETE", f"api/webhooks/{twin['id']}/")

    def _webhooks_to(self, project_id: int, url: str) -> list[dict[str, Any]]:
        # Label Studio also lists the webhooks of the whole organisation, which are not ours.
        return [
            hook
            for hook in self.webhooks(project_id)
            if hook["url"] == url and hook["project"] == project_id
        ]

    def remove_entry(self, entry_id: int) -> None:
        """Remove a backend entry; Label Studio leaves its webhook behind."""
        self._api.call("DELETE", f"api/ml/{entry_id}")

    def remove_webhooks(self, project_id: int, url: str) -> int:
        """Remove the project's webhooks to this address; return how many there were."""
        ours = self._webhooks_to(project_id, url)
        for hook in ours:
            self._api.call("DELETE", f"api/webhooks/{hook['id']}/")
        return len(ours)

    def tabs(self, project_id: int) -> list[dict[str, Any]]:
        """Return the Data Manager's tabs of a project, from the left to the right."""
        found = self._api.call("GET", "api/dm/views/", params={"project": project_id})
        return self._api.rows(found, _TAB)

    def add_tab(self, project_id: int, data: Mapping[str, Any]) -> None:
        """Add a tab on the right, for everybody."""
        # Without filters Label Studio would put it on the left.
        filters = {"conjunction": "and", "items": []}
        body = {"project": project_id, "data": {"filters": filters, **data}}
        self._api.call("POST", "api/dm/views/", body, params={"project": project_id}, retries=0)

    def remove_tab(self, tab_id: int) -> None:
        """Remove a tab; tasks and annotations stay."""
        self._api.call("DELETE", f"api/dm/views/{tab_id}/")

    def authorisation(self) -> dict[str, str]:
        """Return the header that lets a plain GET fetch an image."""
        return self._api.authorisation()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _tasks_page(
        self,
        project_id: int,
        ordering: list[str],
        *,
        filters: Sequence[Mapping[str, Any]] = (),
        size: int = PAGE,
        fields: str = _TASK_FIELDS,
    ) -> dict[str, Any]:
        query: dict[str, Any] = {"ordering": ordering}
        if filters:
            query["filters"] = {"conjunction": "and", "items": list(filters)}
        found = self._api.call(
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
        return self._api.object(found, {"tasks": list, "total": int})


def _filter(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {
        "filter": f"filter:tasks:{column}",
        "operator": operator,
        "type": kind,
        "value": value,
    }
