"""Connect a project, and take it out again: its backend entry, its webhook, what is kept of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from filelock import FileLock, Timeout

from backend import labels
from backend.access import entry_credentials, webhook_headers
from backend.errors import ConfigError, LabelStudioError
from backend.gateway import LabelStudio
from backend.settings import Settings, parse_options
from backend.store import Store, sqlite_path

TITLE = "Firstlight"
Entry = Mapping[str, Any]  # a backend entry as Label Studio gives it


def connect(settings: Settings, studio: LabelStudio, project_id: int, extra_params: str) -> str:
    """Create or mend the project's entry and webhook; return a sentence about it.

    Raises:
        FirstlightError: When Label Studio cannot be reached, cannot reach us, or the project's
            labelling interface or options cannot be served.
    """
    parse_options(extra_params)  # so that a mistake is told here rather than stored there
    info = studio.project(project_id)
    labels.parse(info.label_config)
    register(settings, studio, project_id, extra_params)
    return f"Project {project_id} ({info.title}) is connected to {settings.public_url}."


def register(
    settings: Settings, studio: LabelStudio, project_id: int, extra_params: str = ""
) -> None:
    """Create or mend the entry at our address and its webhook; both may be there already.

    Raises:
        LabelStudioError: When Label Studio cannot be reached.
        ConfigError: When it may not or cannot call us.
    """
    fields: dict[str, Any] = {
        "url": settings.public_url,
        "project": project_id,
        "title": TITLE,
        **entry_credentials(settings),
    }
    if extra_params:
        fields["extra_params"] = json.loads(extra_params)
    try:
        studio.connect(fields)
        studio.ensure_webhook(project_id, webhook_url(fields), webhook_headers(settings))
    except LabelStudioError as error:
        raise explained(error, settings.public_url) from None


def disconnect(
    settings: Settings, studio: LabelStudio, store: Store | None, project_id: int
) -> Iterator[str]:
    """Remove our entries and webhooks from a project and rest; yield what was done.

    What other services put there stays. Done twice, it finds nothing the second time.

    Args:
        settings: For our address.
        studio: Label Studio.
        store: What is known here; None when nothing is.
        project_id: The project.

    Raises:
        LabelStudioError: When Label Studio cannot be asked, or has no such project.
    """
    answer = store.answer(store.project(project_id)) if store else ""
    found = studio.entries(project_id)
    ours = [e for e in found if is_at(e, settings.public_url) or is_of(e, answer)]
    for entry in ours:
        studio.remove_entry(entry["id"])
        yield f"Removed the backend entry {entry['id']} ({entry['url']})."
    urls = dict.fromkeys([settings.public_url + "/webhook", *map(webhook_url, ours)])
    for url in urls:
        if number := studio.remove_webhooks(project_id, url):
            yield f"Removed {number} webhook{'s'[: number > 1]} to {url}."
    if store:
        # The worker passes over it until somebody connects it again.
        store.update(project_id, gone=True, problem="", mend="")
    if left := len(found) - len(ours):
        yield f"Left {left} backend {'entry' if left == 1 else 'entries'} of other services alone."


def forget(settings: Settings, store: Store, project_id: int) -> str:
    """Delete all that is kept here of a disconnected project; return a sentence about it.

    Raises:
        ConfigError: While a worker is in the middle of a round of it.
    """
    project = store.project(project_id)
    if project is not None and project.step and worker_runs(settings) is not False:
        raise ConfigError(
            f"Nothing was forgotten: a worker is busy with project {project_id} ({project.step}).",
            "It rests after this round; run the same command again, or stop the worker before.",
        )
    store.forget(project_id)
    folder = settings.project_folder(project_id)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise ConfigError(
            f"Some files of {folder} could not be deleted.", "Delete the folder by hand."
        )
    return f"Forgot project {project_id}: its models, maps, rounds and ledger are deleted."


def worker_runs(settings: Settings) -> bool | None:
    """Return whether a worker uses this DATA_DIR; None on a database that does not tell.

    Looked up by taking the worker's lock for an instant.
    """
    if sqlite_path(settings.database) is None:
        return None
    path = settings.data_dir / "worker.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def is_of(entry: Entry, answer: str) -> bool:
    """Return whether an entry holds what our /setup answers; nothing is held by one never asked."""
    return bool(answer) and entry.get("model_version") == answer


def is_at(entry: Entry, url: str) -> bool:
    """Return whether an entry leads to this address."""
    return str(entry["url"]).rstrip("/") == url


def webhook_url(entry: Entry) -> str:
    """Return where Label Studio tells the service behind an entry what happened."""
    return str(entry["url"]).rstrip("/") + "/webhook"


def explained(error: LabelStudioError, url: str) -> LabelStudioError | ConfigError:
    """Return what Label Studio's words about our address mean, and what to do."""
    if "reserved network address" in error.what:
        return ConfigError(
            f"Label Studio may not call {url}: it blocks private addresses.",
            "Start Label Studio with ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false, "
            "then connect again.",
        )
    if "valid URL" in error.what:
        return ConfigError(
            f"Label Studio takes no webhook to {url}: its host has no dot.",
            "Set BACKEND_URL to an address, or to a name with a dot.",
        )
    if "authentication parameters" in error.what:
        return ConfigError(
            f"{url} refuses the user and password of these settings.",
            "Give the web process and this command the same BASIC_AUTH_USER and BASIC_AUTH_PASS.",
        )
    if "can't connect" in error.what.lower():
        return ConfigError(
            f"Label Studio cannot reach {url}.",
            "Run `python -m backend start` there, or set BACKEND_URL to an address that Label "
            "Studio can reach.",
        )
    return error
