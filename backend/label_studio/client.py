"""Label Studio, as this service needs it: the only importer of label_studio_sdk.

Facts about Label Studio 1.23.2 that shape this file: the lowest prediction score is served first;
bulk import is not one transaction; a PATCH of a backend entry reaches our own /setup; GET of a
single task would call our own /predict, so tasks are always listed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
IMPORT_NUMBERS = 10_000_000  # of masks in one call: some 40 MB, Label Studio takes 250
# Of one call: their ids fit into an address, and their masks into some ten megabytes.
TASKS_WITH_MASKS = 50
OVERLAP_SECONDS = 5
# A personal token is exchanged for one of five minutes; less than this is not worth sending.
RENEW_SECONDS = 30
MOST = 2**63 - 1  # a number beyond is none of a database
NOBODY = -1  # the id of a project that cannot be
QUEUE = "Uncertainty sampling"
# Importing 500 large masks takes Label Studio seconds, on a busy machine a minute.
TIMEOUT = httpx.Timeout(120.0, connect=5.0)
DEEPEST = 9  # of what Label Studio nests by field in an error: two or three, as far as is known

# What is read of Label Studio's answers, each with its type; whatever else is in them may be odd.
_Fields = Mapping[str, type | tuple[type, ...]]
_MAYBE_TEXT, _FLAG = (str, type(None)), (bool, int)
_TASK: _Fields = {
    "id": int,
    "data": (dict, type(None)),
    "updated_at": str,
    "is_labeled": _FLAG,
    "total_annotations": int,
    "cancelled_annotations": int,
}
_ANNOTATION: _Fields = {
    "id": int,
    "result": (list, type(None)),
    "was_cancelled": _FLAG,
    "ground_truth": _FLAG,
    "created_at": str,
    "updated_at": str,
}
_ENTRY: _Fields = {
    "id": int,
    "url": str,
    "project": int,
    "title": _MAYBE_TEXT,
    "model_version": _MAYBE_TEXT,
}
_WEBHOOK: _Fields = {"id": int, "url": str, "project": (int, type(None))}
_TAB: _Fields = {"id": int, "data": (dict, type(None))}


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
        self._own = settings.public_url
        # Followed, a redirect would turn a POST into a GET; it is refused and said instead.
        self._http = client or httpx.Client(timeout=TIMEOUT, follow_redirects=False)
        with self._translated():
            # With the slash the SDK finds its way to exchange a token below a sub-path too.
            self._client = Client(  # type: ignore[no-untyped-call]
                base_url=f"{self._url}/", api_key=settings.api_key, httpx_client=self._http
            )

    # -- access ---------------------------------------------------------------------------------

    @property
    def token_kind(self) -> str:
        """What was given as LABEL_STUDIO_API_KEY, in Label Studio's words."""
        return "personal access token" if self._personal else "legacy token"

    def server_version(self) -> str:
        """Return Label Studio's release; asked without the token.

        Raises:
            Unreachable: When it does not answer, or something else does.
        """
        with self._translated():
            response = self._http.get(f"{self._url}/api/version", follow_redirects=False)
            self._refuse_redirect(response)
            if response.status_code >= 400:
                raise ApiError(status_code=response.status_code, body=_detail(response))
            found = _decoded(response)
        release = found.get("release") if isinstance(found, dict) else None
        if not release:
            raise self._foreign()
        return str(release)

    def check_token(self) -> None:
        """Make sure that the token is accepted.

        Raises:
            Unauthorized: With the way to one that is.
        """
        self._call("GET", "api/current-user/whoami")

    def check_entry_address(self, url: str) -> None:
        """Make sure that a backend entry may have this address; nothing is stored.

        Raises:
            LabelStudioError: With Label Studio's reason.
        """
        self._check_address("api/ml", url)

    def check_webhook_address(self, url: str) -> None:
        """Make sure that a webhook may have this address; nothing is stored.

        Raises:
            LabelStudioError: With Label Studio's reason.
        """
        self._check_address("api/webhooks/", url)

    def _check_address(self, path: str, url: str) -> None:
        # Addresses are judged with all other fields, and a project that cannot be is refused.
        try:
            self._call("POST", path, {"url": url, "project": NOBODY}, retries=0)
        except LabelStudioError as error:
            if "object does not exist" not in error.what or "valid URL" in error.what:
                raise

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
        found = self._object(
            self._call("GET", f"api/projects/{project_id}", params={"include": ",".join(fields)}),
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
        """Return whether a Label Studio in good order says that it has no such project.

        While Label Studio restarts, a proxy before it answers 404 to everything: only a server
        that tells its version and knows our token is believed.
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
            before: Leave out what changed at this time or later; "" leaves nothing out.
        """
        page = self._tasks_page(
            project_id,
            ["-tasks:updated_at"],
            filters=[_filter("updated_at", "less", "Datetime", before)] if before else [],
            size=1,
            fields="id,updated_at",
        )
        found = self._rows(page["tasks"], {"updated_at": str})
        return str(found[0]["updated_at"]) if found else ""

    def tasks(self, project_id: int, *, since: str = "") -> Iterator[list[dict[str, Any]]]:
        """Yield pages of tasks with data and counts; only those changed `since`.

        A page starts behind the last id of the one before: by number, a task that is deleted
        meanwhile would push another one out of sight.
        """
        changed = []
        if moment := _shortly_before(since):
            changed = [_filter("updated_at", "greater_or_equal", "Datetime", moment)]
        last, left = 0, 1
        while left:
            behind = _filter("id", "greater", "Number", last)
            page = self._tasks_page(project_id, ["tasks:id"], filters=[behind, *changed])
            found = self._rows(page["tasks"], _TASK)
            if not found:
                return
            if found[-1]["id"] <= last:  # it would never come to an end
                raise self._foreign()
            last, left = found[-1]["id"], int(page["total"]) - len(found)
            yield found

    def annotations(self, project_id: int, task_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield every submitted annotation of these tasks, skips among them, drafts not."""
        for start in range(0, len(task_ids), TASKS_WITH_MASKS):
            part = list(task_ids[start : start + TASKS_WITH_MASKS])
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
            tasks = self._object(page, {"tasks": list})["tasks"]
            for task in self._rows(tasks, {"id": int, "annotations": list}):
                for found in self._rows(task["annotations"], _ANNOTATION):
                    yield {**found, "task": task["id"]}

    def entries(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's backend entries; Label Studio calls our /health and /setup first."""
        return self._rows(self._call("GET", "api/ml", params={"project": project_id}), _ENTRY)

    def entry(self, project_id: int, answer: str) -> dict[str, Any]:
        """Return our entry: the one that holds what our /setup just answered.

        Raises:
            NotFound: When no entry, or more than one, holds it.
            Unreachable: When Label Studio could not ask for it at our address.
        """
        found = self.entries(project_id)
        ours = [e for e in found if e.get("model_version") == answer]
        unheard = [e for e in found if e["url"].rstrip("/") == self._own and e.get("state") != "CO"]
        if unheard and not ours:
            raise Unreachable(
                f"Label Studio cannot reach this service at {self._own}.",
                "Is its web process running? It is asked again by itself.",
            )
        if len(ours) != 1:
            raise NotFound(
                f"Project {project_id} has {len(ours)} backend entries that are this service.",
                f"Run `python -m backend connect {project_id}`, and `python -m backend doctor "
                f"{project_id} --fix` if there are several.",
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
        rows = self._object(found, {"static": list})["static"]
        counted = self._rows(rows, {"model_version": _MAYBE_TEXT, "count": int})
        return {row["model_version"]: row["count"] for row in counted}

    # -- publishing -----------------------------------------------------------------------------

    def import_queue(self, project_id: int, version: str, queue: Sequence[QueueItem]) -> None:
        """Write one prediction a scan, first scan lowest score; never repeated by itself.

        A repeated import would leave two predictions of one version on a task, which corrupts
        Label Studio's order, so the caller verifies the count and takes a new name after a doubt.
        """
        for chunk in _imports(queue):
            rows = [
                {
                    "task": item.task,
                    "score": score(position, len(queue)),
                    "model_version": version,
                    "result": item.result,
                }
                for position, item in chunk
            ]
            self._call("POST", f"api/projects/{project_id}/import/predictions", rows, retries=0)

    def switch(self, project_id: int, version: str) -> None:
        """Serve the queue by this version's scores, from this moment on."""
        self._call(
            "PATCH", f"api/projects/{project_id}", {"model_version": version, "sampling": QUEUE}
        )

    def rename(self, entry: Mapping[str, Any], version: str, auth: Mapping[str, Any]) -> None:
        """Give our entry the version as its title, so that scans beyond the horizon ask us.

        Without its options, which somebody may have changed since the entry was read; but with our
        credentials, since Label Studio tries what is sent on our /setup first.
        """
        fields = {"title": version, "url": entry["url"], "project": entry["project"], **auth}
        self._call("PATCH", f"api/ml/{entry['id']}", fields)

    def delete_version(self, project_id: int, version: str) -> None:
        """Remove a version's predictions; the project has to be switched again afterwards.

        Label Studio clears its model version with any version that goes, as long as that is the
        title of an entry. On SQLite it stands still until they are gone.
        """
        self._call(
            "DELETE",
            f"api/projects/{project_id}/model-versions/",
            {"model_version": version},
        )

    # -- connecting -----------------------------------------------------------------------------

    def connect(self, fields: Mapping[str, Any]) -> None:
        """Create or mend the one entry with this project and url."""
        found = self._entries_at(fields)
        if found:
            title = found[0].get("title") or fields["title"]
            self._call("PATCH", f"api/ml/{found[0]['id']}", {**fields, "title": title}, retries=0)
        else:
            self._call("POST", "api/ml", fields, retries=0)
            # Where SQLite was locked, Label Studio runs a request anew by itself, and may have
            # saved the entry before.
            found = self._entries_at(fields)
        for twin in found[1:]:
            self.remove_entry(twin["id"])

    def _entries_at(self, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        url = fields["url"].rstrip("/")
        return [e for e in self.entries(fields["project"]) if e["url"].rstrip("/") == url]

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's webhooks."""
        found = self._call("GET", "api/webhooks/", params={"project": project_id})
        return self._rows(found, _WEBHOOK)

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
        ours = self._webhooks_to(project_id, url)
        if ours:
            self._call("PATCH", f"api/webhooks/{ours[0]['id']}/", fields)
        else:
            self._call("POST", "api/webhooks/", fields, retries=0)
            ours = self._webhooks_to(project_id, url)
        for twin in ours[1:]:
            self._call("DELETE", f"api/webhooks/{twin['id']}/")

    def _webhooks_to(self, project_id: int, url: str) -> list[dict[str, Any]]:
        # Those of the whole organisation are listed too, and are somebody else's.
        return [
            hook
            for hook in self.webhooks(project_id)
            if hook["url"] == url and hook["project"] == project_id
        ]

    def remove_entry(self, entry_id: int) -> None:
        """Remove a backend entry; Label Studio leaves its webhook behind."""
        self._call("DELETE", f"api/ml/{entry_id}")

    def remove_webhooks(self, project_id: int, url: str) -> int:
        """Remove the project's webhooks to this address; return how many there were."""
        ours = self._webhooks_to(project_id, url)
        for hook in ours:
            self._call("DELETE", f"api/webhooks/{hook['id']}/")
        return len(ours)

    def tabs(self, project_id: int) -> list[dict[str, Any]]:
        """Return the Data Manager's tabs of a project, from the left to the right."""
        found = self._call("GET", "api/dm/views/", params={"project": project_id})
        return self._rows(found, _TAB)

    def add_tab(self, project_id: int, data: Mapping[str, Any]) -> None:
        """Add a tab on the right, for everybody."""
        # Without filters Label Studio would put it on the left.
        filters = {"conjunction": "and", "items": []}
        body = {"project": project_id, "data": {"filters": filters, **data}}
        self._call("POST", "api/dm/views/", body, params={"project": project_id}, retries=0)

    def remove_tab(self, tab_id: int) -> None:
        """Remove a tab; tasks and annotations stay."""
        self._call("DELETE", f"api/dm/views/{tab_id}/")

    def authorisation(self) -> dict[str, str]:
        """Return the header that lets a plain GET fetch an image; a personal token is exchanged."""
        with self._translated():
            self._renew()
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
        found = self._call(
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
        return self._object(found, {"tasks": list, "total": int})

    def _call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, Any] | None = None,
        retries: int = 2,
    ) -> Any:
        # Left to the SDK, this takes longer than the whole rest of an import: it looks at every
        # number of every mask.
        content = None if body is None else _as_json(body)

        def send() -> httpx.Response:
            response: httpx.Response = self._client._client_wrapper.httpx_client.request(
                path,
                method=method,
                content=content,
                headers={"Content-Type": "application/json"} if content else None,
                params=dict(params or {}),
                request_options={"max_retries": retries},
            )
            return response

        with self._translated():
            self._renew()
            response = send()
            if response.status_code == 401 and self._personal:
                # Clocks differ, and a server may forget: what was exchanged is worth a second try.
                self._renew(at_once=True)
                response = send()
            self._refuse_redirect(response)
            if response.status_code == 404 and not _is_label_studios(response):
                raise self._foreign()
            if response.status_code >= 400:
                # A refused queue would be quoted back with what is drawn on it.
                detail = response.reason_phrase if isinstance(body, list) else _detail(response)
                raise ApiError(status_code=response.status_code, body=detail)
            return _decoded(response) if response.content else None

    @property
    def _personal(self) -> bool:
        return not self._client._client_wrapper._tokens_client._use_legacy_token

    def _renew(self, *, at_once: bool = False) -> None:
        """Drop an exchanged token that is about to end; the SDK then asks for another."""
        tokens = self._client._client_wrapper._tokens_client
        ends = tokens._access_token_expiration
        soon = datetime.now(UTC) + timedelta(seconds=RENEW_SECONDS)
        if at_once or (ends is not None and ends < soon):
            tokens._access_token = None

    def _refuse_redirect(self, response: httpx.Response) -> None:
        if response.has_redirect_location:
            target = response.next_request.url if response.next_request else ""
            raise Unreachable(
                f"{self._url} redirects, to {_origin(target)}.",
                "Set LABEL_STUDIO_URL to Label Studio's final address.",
            )

    def _rows(self, found: object, fields: _Fields) -> list[dict[str, Any]]:
        """Return a list of objects that have these fields, as Label Studio's always do."""
        if not isinstance(found, list):
            raise self._foreign()
        return [self._object(row, fields) for row in found]

    def _object(self, found: object, fields: _Fields) -> dict[str, Any]:
        if isinstance(found, dict) and all(_fits(found, *field) for field in fields.items()):
            return found
        raise self._foreign()

    def _foreign(self) -> Unreachable:
        return Unreachable(
            f"{self._url} answered something that is not Label Studio's API.",
            "Check LABEL_STUDIO_URL: the address of Label Studio itself, without /api.",
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the SDK and the network raise into one of our errors."""
        try:
            yield
        except ApiError as error:
            raise self._api_error(error) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"Label Studio at {self._url} did not answer ({type(error).__name__}).",
                "Is it running, and is LABEL_STUDIO_URL right? It is asked again by itself.",
            ) from None
        except (ValueError, TypeError, OverflowError, OSError, RecursionError):
            # From reading what came: it is no JSON, or holds a token whose end is no time.
            raise self._foreign() from None

    def _api_error(self, error: ApiError) -> LabelStudioError:
        status, detail = error.status_code or 0, _sentence(error.body)
        if status in {401, 403}:
            return Unauthorized(
                f"Label Studio refused the request ({status}): {detail}", _token_mend(detail)
            )
        if status == 404:
            return NotFound(
                f"Label Studio does not know what was asked for (404): {detail}",
                "Was the project or its backend entry deleted? Then connect it again.",
            )
        if status == 429 or status >= 500:
            return Unreachable(
                f"Label Studio answered {status}.", "See its log; it is asked again by itself."
            )
        return LabelStudioError(f"Label Studio refused the request ({status}): {detail}")


def _imports(queue: Sequence[QueueItem]) -> Iterator[list[tuple[int, QueueItem]]]:
    """Yield what goes out in one call each: (position in the queue, item)."""
    chunk: list[tuple[int, QueueItem]] = []
    room = 0
    for position, item in enumerate(queue):
        numbers = sum(map(_numbers, item.result))
        if chunk and (len(chunk) == IMPORT_CHUNK or numbers > room):
            yield chunk
            chunk = []
        if not chunk:
            room = IMPORT_NUMBERS
        chunk.append((position, item))
        room -= numbers
    if chunk:
        yield chunk


def _numbers(region: Mapping[str, Any]) -> int:
    """Return how many numbers draw a region, next to which all else of it is small."""
    value = region["value"]
    return len(value.get("rle", ())) + 2 * len(value.get("points", ()))


def score(position: int, number: int) -> float:
    """Return Label Studio's score of a queue position: in (0, 1), lowest served first."""
    return (position + 1) / (number + 1)


def _as_json(body: object) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _filter(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {
        "filter": f"filter:tasks:{column}",
        "operator": operator,
        "type": kind,
        "value": value,
    }


def _decoded(response: httpx.Response) -> Any:
    """Return the JSON of an answer, a "?" for every half of a character: no database stores one."""
    found = response.json()
    if b"\\ud" not in response.content.lower():
        return found
    return json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))


def _fits(found: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> bool:
    value = found.get(name, _fits)  # what is missing is of no type that is asked for
    if isinstance(value, int) and abs(value) > MOST:
        return False
    return isinstance(value, kind)


def _is_label_studios(response: httpx.Response) -> bool:
    """Return whether an error is in Label Studio's own words, and not in those of a proxy."""
    try:
        found = response.json()
    except (ValueError, RecursionError):
        return False
    own = isinstance(found, dict) and found.get("status_code") == response.status_code
    return own and isinstance(found.get("detail"), str)


def _detail(response: httpx.Response) -> str:
    """Return Label Studio's own sentence about an error, and nothing else of the body."""
    try:
        return _sentence(_decoded(response)) or response.reason_phrase
    except (ValueError, RecursionError):
        return response.reason_phrase


def _sentence(body: object) -> str:
    found = body
    if isinstance(body, dict):
        found = body.get("validation_errors") or body.get("detail") or ""
    return "; ".join(_leaves(found))[:300]


def _leaves(found: object, deep: int = DEEPEST) -> Iterator[str]:
    """Yield the sentences in what Label Studio nests by field."""
    if isinstance(found, dict | list):
        for part in (found.values() if isinstance(found, dict) else found) if deep else ():
            yield from _leaves(part, deep - 1)
    elif found:
        yield str(found)


def _token_mend(detail: str) -> str:
    """Return the way to a token that Label Studio accepts, by what it says of this one."""
    if "legacy token authentication has been disabled" in detail:
        return (
            "Set LABEL_STUDIO_API_KEY to a personal access token (Account & Settings > Personal "
            "Access Token), or let the organisation's owner allow legacy tokens (Organization > "
            "API Tokens Settings)."
        )
    if "wrong type" in detail:
        return (
            "LABEL_STUDIO_API_KEY is a short-lived access token: set it to the personal access "
            "token that it was made from."
        )
    return (
        "Check LABEL_STUDIO_API_KEY: a personal access token, or a legacy token where "
        "the organisation still allows them."
    )


def _origin(url: object) -> str:
    """Return where an address leads, without its path and query."""
    parsed = httpx.URL(str(url))
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"


def _shortly_before(moment: str) -> str:
    """Return a time some seconds earlier: a change stamped earlier may become visible later.

    "" stands for no time, and for what is none.
    """
    try:
        exact = datetime.fromisoformat(moment).astimezone(UTC)
        earlier = exact - timedelta(seconds=OVERLAP_SECONDS)
    except (ValueError, OverflowError):
        return ""
    return notation(earlier)


def moment(text: str) -> float:
    """Return a time of Label Studio's in seconds since the epoch, 0 for what is no time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def notation(moment: datetime) -> str:
    """Return a time in the only notation that Label Studio's filters read; others get a 500."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
