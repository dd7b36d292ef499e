"""The doctor's checks of a project and its queue: each returns a Finding, or raises."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend import PROGRAM
from backend.commands import check_clicks
from backend.commands.connection import (
    Entry,
    explained,
    is_at,
    is_connected,
    is_of,
    register,
    signed_headers,
    webhook_url,
)
from backend.commands.findings import Check, Finding, Load
from backend.errors import ImageError, LabelStudioError, LacksVariables
from backend.imaging.scan_cache import WORKING_SIZE, Scan
from backend.label_studio import labels, probes, queue_tab
from backend.label_studio.client import QUEUE, LabelStudio
from backend.label_studio.credentials import entry_credentials
from backend.label_studio.publisher import Publisher
from backend.options import parse_options
from backend.rounds.idle import review_list
from backend.rounds.services import Services
from backend.storage.store import Store
from backend.storage.tables import Project

IMAGES_TRIED = 3
# The folder is that of the person's images.
LOCAL_FILES = {
    "LOCAL_FILES_SERVING_ENABLED": "true",
    "LOCAL_FILES_DOCUMENT_ROOT": "/folder/of/the/images",
}
# Without one of these events the queue would wait for the timer.
EVENTS = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "PROJECT_UPDATED",
        "TASKS_CREATED",
        "TASKS_DELETED",
    }
)


def project(studio: LabelStudio, project_id: int) -> Finding:
    """Whether there is such a project."""
    info = studio.project(project_id)
    number = info.counters["task_number"]
    return Finding("project", True, f"{project_id} ({info.title}) has {number} tasks.")


def of_project(services: Services, project_id: int, load: Load) -> list[tuple[str, Check]]:
    """Return the checks of how a project is set up."""
    return [
        ("labels", lambda: interface(services.studio, project_id)),
        ("entry", lambda: entry(services, project_id)),
        ("options", lambda: options(services, project_id)),
        ("clicks", lambda: check_clicks.run(services, project_id, _entry(services, project_id))),
        ("webhook", lambda: webhook(services, project_id)),
        ("tab", lambda: tab(services.studio, project_id)),
        ("image", lambda: image(services, project_id, load)),
        ("rounds", lambda: rounds(services.store, project_id)),
    ]


def of_queue(services: Services, project_id: int) -> list[tuple[str, Check]]:
    """Return the checks of what Label Studio serves; they depend on the entry."""
    return [
        ("queue", lambda: queue(services, project_id)),
        ("model version", lambda: model_version(services, project_id)),
        ("title", lambda: title(services, project_id)),
        ("sampling", lambda: sampling(services, project_id)),
    ]


def interface(studio: LabelStudio, project_id: int) -> Finding:
    """Whether the labelling interface can be served."""
    config = labels.parse(studio.project(project_id).label_config)
    return Finding("labels", True, f"{', '.join(config.labels)}.")


def entry(services: Services, project_id: int) -> Finding:
    """Whether exactly one backend entry is ours, and Label Studio reaches us through it."""
    url = services.settings.public_url
    before = _answer(services, project_id)
    entries = services.studio.entries(project_id)
    # A round may make another version live meanwhile.
    answers = {before, _answer(services, project_id)}
    ours = [e for e in entries if any(is_of(e, answer) for answer in answers)]
    if len(ours) > 1:
        return _several(services, ours)
    if ours:
        return _judge_entry(services, ours[0])
    at_our_url = [e for e in entries if is_at(e, url)]
    if at_our_url:
        return _judge_stranger(services, project_id, at_our_url[0])
    others = f" It has {len(entries)} of other services." if entries else ""
    return Finding(
        "entry",
        False,
        f"The project has no backend entry of this service.{others}",
        f"Run `{PROGRAM} connect {project_id}`.",
    )


def _several(services: Services, ours: Sequence[Entry]) -> Finding:
    url = services.settings.public_url
    kept = next((e for e in ours if is_at(e, url)), None)

    def remove_others() -> None:
        for other in ours:
            if kept is not None and other["id"] != kept["id"]:
                _remove(services.studio, other, keep=webhook_url(kept))

    return Finding(
        "entry",
        False,
        f"{len(ours)} backend entries lead to this service: "
        f"{', '.join(str(e['url']) for e in ours)}.",
        f"Delete all but one in Settings > Model (--fix keeps the one at {url})."
        if kept
        else "Delete all but one in Settings > Model.",
        remove_others if kept else None,
    )


def _judge_entry(services: Services, ours: Entry) -> Finding:
    settings, studio = services.settings, services.studio
    if is_connected(ours):
        return Finding("entry", True, f"Entry {ours['id']} at {ours['url']} leads to this service.")

    def move() -> None:
        moved = {**ours, "url": settings.public_url}
        try:
            studio.rename(moved, str(ours["title"]), entry_credentials(settings))
        except LabelStudioError as error:
            raise explained(error, settings.public_url) from None
        if not is_at(ours, settings.public_url):
            studio.remove_webhooks(ours["project"], webhook_url(ours))

    return Finding(
        "entry",
        False,
        f"Label Studio does not reach this service at {ours['url']} ({_state(ours)}).",
        f"Check that the web process runs, and that Label Studio reaches {settings.public_url} "
        "(BACKEND_URL). --fix writes this address and the current credentials into the entry.",
        move,
    )


def _judge_stranger(services: Services, project_id: int, stranger: Entry) -> Finding:
    """Judge an entry that has our address, but not our answer to /setup."""
    url = services.settings.public_url
    if is_connected(stranger):
        return Finding(
            "entry",
            False,
            f"Another service answers at {url} (entry {stranger['id']}): "
            f"{stranger.get('model_version')!r}.",
            "Run this command with the DATA_DIR and DATABASE_URL of the web process at that "
            "address.",
        )
    return Finding(
        "entry",
        False,
        f"Label Studio does not reach this service at {url} ({_state(stranger)}).",
        f"Run the web process, then `{PROGRAM} connect {project_id}` or --fix.",
        lambda: register(services.settings, services.studio, project_id),
    )


def options(services: Services, project_id: int) -> Finding:
    """Whether the options in our entry are valid."""
    ours = _entry(services, project_id)
    extra = ours.get("extra_params") if ours else None
    parse_options(extra)
    return Finding("options", True, _options_said(extra))


def webhook(services: Services, project_id: int) -> Finding:
    """Whether our webhook exists, sends every event we need, and the secret alone."""
    settings, store, studio = services.settings, services.store, services.studio
    ours = _entry(services, project_id)
    url = webhook_url(ours or {"url": settings.public_url})
    headers = signed_headers(settings)
    hooks = [h for h in studio.webhooks(project_id) if h["url"] == url]
    problems = list(_webhook_problems(hooks[0], headers)) if hooks else ["it does not exist"]
    known = store.projects.get(project_id)
    if known and known.webhook_refused_at:
        problems.append("this service refuses its events")
    if not problems:
        return Finding("webhook", True, f"It sends every event to {url}.")

    def repair() -> None:
        studio.ensure_webhook(project_id, url, headers)
        store.projects.update(project_id, webhook_refused_at=0.0)

    readable = any("Authorization" in _headers_of(hook) for hook in hooks)
    return Finding(
        "webhook",
        False,
        f"The webhook to {url}: {'; '.join(problems)}.",
        f"Run `{PROGRAM} doctor {project_id} --fix`{_LEAKED if readable else '.'}",
        repair,
    )


_LEAKED = ", then change BASIC_AUTH_PASS, here and in the entry (`--fix` writes it)."


def _webhook_problems(hook: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    if not hook.get("is_active"):
        yield "it is switched off"
    if not hook.get("send_payload"):
        yield "it sends no payload"
    missing = EVENTS - set(hook.get("actions") or ())
    if not hook.get("send_for_all_actions") and missing:
        yield f"it does not send {', '.join(sorted(missing))}"
    given = _headers_of(hook)
    for name in (name for name, value in headers.items() if given.get(name) != value):
        yield f"its header {name} is {'wrong' if name in given else 'missing'}"
    if "Authorization" in given:
        yield "the password lies in its header Authorization, where every account can read it"


def _headers_of(hook: Mapping[str, Any]) -> dict[str, Any]:
    given = hook.get("headers")
    return given if isinstance(given, dict) else {}


def tab(studio: LabelStudio, project_id: int) -> Finding:
    """Whether the Data Manager has a tab in the queue's order; a missing tab is no error."""
    if queue_tab.exists(studio, project_id):
        return Finding("tab", True, "The Data Manager lists the queue.")
    return Finding(
        "tab",
        True,
        "No tab of the Data Manager lists the queue.",
        f"`{PROGRAM} connect {project_id}` makes the tab.",
    )


def image(services: Services, project_id: int, load: Load) -> Finding:
    """Whether an image of the project can be fetched, decoded and encoded."""
    config = labels.parse(services.studio.project(project_id).label_config)
    first = next(services.studio.tasks(project_id), [])[:IMAGES_TRIED]
    if not first:
        return Finding("image", True, "The project has no tasks yet.")
    known = services.store.projects.get(project_id)
    urls = [(task["id"], labels.address(task["data"], config)) for task in first]
    try:
        task_id, scan = _first_scan(services, known or Project(id=project_id), urls)
    except ImageError as error:
        local = any(probes.is_local_file(url) for _, url in urls)
        if local and not probes.serves_local_files(services.studio):
            raise LacksVariables.of(error.what, LOCAL_FILES) from None
        raise
    load().encode([scan.image])
    height, width = scan.size
    return Finding("image", True, f"Task {task_id}: {width} x {height} pixels, encoded.")


def _first_scan(
    services: Services, known: Project, urls: list[tuple[int, str]]
) -> tuple[int, Scan]:
    """Return the first scan that can be read; the image is fetched anew."""
    first_error = None
    with tempfile.TemporaryDirectory() as folder:
        settings = services.settings.model_copy(update={"data_dir": Path(folder)})
        scans = replace(services, settings=settings).scans(known, WORKING_SIZE)
        for task_id, url in urls:
            try:
                return task_id, scans.get(task_id, url)
            except ImageError as error:
                first_error = first_error or error
    raise first_error or ImageError("There is no image.")


def rounds(store: Store, project_id: int) -> Finding:
    """Whether the project's rounds go on."""
    known = store.projects.get(project_id)
    if known is None or known.disconnected:
        return Finding(
            "rounds",
            False,
            "The project is not connected to this service.",
            f"Run `{PROGRAM} connect {project_id}`.",
        )
    if known.problem:
        return Finding("rounds", False, known.problem, known.fix)
    if known.step:
        return Finding("rounds", True, f"A round is under way ({known.step}).")
    if known.requested > known.completed:
        return Finding("rounds", True, "The next round is requested.")
    return Finding("rounds", True, "All requested rounds are completed.")


def queue(services: Services, project_id: int) -> Finding:
    """Whether Label Studio holds the queue that was published last."""
    store = services.store
    live = _live(services, project_id)
    version = store.publications.get(project_id, live)
    if not live or version is None:
        return Finding("queue", True, "No queue is published yet.")
    number = services.studio.version_count(project_id, live)
    number -= review_list.published(store, project_id, live)
    there = {task.id for task in store.scans.all(project_id)}
    if number >= len(there.intersection(version.published)):
        return Finding("queue", True, f"{live}: {number} scans.")

    def publish_again() -> None:
        store.projects.update(project_id, fingerprint="")
        store.projects.request_refresh(project_id, full=True)

    return Finding(
        "queue",
        False,
        f"Label Studio has lost predictions of {live}: {number} are left.",
        f"Run `{PROGRAM} doctor {project_id} --fix`: the next round publishes the queue "
        "again under a new name, which takes the worker a moment.",
        publish_again,
    )


def model_version(services: Services, project_id: int) -> Finding:
    """Whether Label Studio serves the live version."""
    return _compared(
        services,
        project_id,
        "model version",
        lambda: services.studio.project(project_id).model_version,
    )


def title(services: Services, project_id: int) -> Finding:
    """Whether our entry's title is the live version, so scans beyond the horizon get drafts."""

    def read() -> str:
        ours = _entry(services, project_id)
        return str(ours["title"]) if ours else ""

    return _compared(services, project_id, "title", read)


def sampling(services: Services, project_id: int) -> Finding:
    """Whether Label Studio orders its queue by score."""
    live = _live(services, project_id)
    order = services.studio.project(project_id).sampling
    if not live:
        return Finding("sampling", True, f"{order}; the first queue will change it.")
    if order == QUEUE or _switching(services, project_id, live):
        return Finding("sampling", True, f"{order}.")
    return Finding(
        "sampling",
        False,
        f"It is {order!r}, so Label Studio ignores the queue.",
        f"Choose {QUEUE!r} in Settings > Annotation, or --fix.",
        lambda: _publisher(services, project_id).switch(live),
    )


def _compared(services: Services, project_id: int, name: str, read: Callable[[], str]) -> Finding:
    live = _live(services, project_id)
    if not live:
        return Finding(name, True, "Nothing is published yet.")
    shown = read()
    if shown == live or _switching(services, project_id, live):
        return Finding(name, True, f"{shown}.")
    return Finding(
        name,
        False,
        f"It is {shown!r}, but the live version is {live!r}.",
        f"Run `{PROGRAM} doctor {project_id} --fix`.",
        lambda: _publisher(services, project_id).switch(live),
    )


def _switching(services: Services, project_id: int, live: str) -> bool:
    """Return whether a round was switching to a new version during this check."""
    now = services.store.projects.get(project_id)
    return now is not None and (now.live_version != live or now.step == "switch")


def _live(services: Services, project_id: int) -> str:
    known = services.store.projects.get(project_id)
    return known.live_version if known else ""


def _answer(services: Services, project_id: int) -> str:
    return services.store.installation.answer(services.store.projects.get(project_id))


def _entry(services: Services, project_id: int) -> Entry | None:
    """Return our entry; None if there is no entry of ours, or more than one."""
    with suppress(LabelStudioError):
        return services.studio.entry(project_id, _answer(services, project_id))
    return None


def _publisher(services: Services, project_id: int) -> Publisher:
    return Publisher(services.settings, services.store, services.studio, project_id)


def _remove(studio: LabelStudio, other: Entry, *, keep: str) -> None:
    studio.remove_entry(other["id"])
    if webhook_url(other) != keep:
        studio.remove_webhooks(other["project"], webhook_url(other))


def _state(entry: Entry) -> str:
    reason = str(entry.get("error_message") or "")[:200]
    return ": ".join(filter(None, [str(entry.get("readable_state") or "unknown"), reason]))


def _options_said(extra: object) -> str:
    return f"{json.dumps(extra)}." if extra else "All options have their defaults."
