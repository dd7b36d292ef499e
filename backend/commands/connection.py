"""Connect and disconnect a project: its entry, webhook and tab, and the data kept here."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from filelock import FileLock, Timeout

from backend import PROGRAM
from backend.errors import (
    ConfigError,
    FirstlightError,
    LabelStudioError,
    LacksVariables,
    NotFound,
    StorageError,
)
from backend.label_studio import labels, queue_tab, review_tab, smart_tags
from backend.label_studio.client import LabelStudio
from backend.label_studio.credentials import entry_credentials, webhook_headers, webhook_secret
from backend.options import as_object, parse_options
from backend.rounds import erasing
from backend.rounds.idle import review_list
from backend.settings import Settings
from backend.storage.artifacts import Artifacts
from backend.storage.database import sqlite_path, worker_lock
from backend.storage.store import Store, open_known
from backend.storage.workers import lively

TITLE = "Firstlight"
TRIES = 3  # of storing the options
MOST_SECONDS = 5.0  # of waiting for another change
# Our answers to /setup: the installation's name, or a version that begins with its queue's source.
_OUR_ANSWERS = re.compile(r"firstlight-[0-9a-f]{8}$|(attention-unet|cold-start) r\d+")
Entry = Mapping[str, Any]  # a backend entry as Label Studio gives it


def connect(
    settings: Settings,
    studio: LabelStudio,
    project_id: int,
    extra_params: str,
    *,
    clicks: bool = False,
) -> str:
    """Create or repair the project's entry, webhook and tab; return a sentence about it.

    With `clicks` the labelling interface gets smart tags, and the entry answers them.

    Raises:
        FirstlightError: When Label Studio cannot be reached, cannot reach us, or the project's
            labelling interface or options cannot be served.
    """
    parse_options(extra_params)  # reports a mistake before Label Studio stores it
    info = studio.project(project_id)
    labels.parse(info.label_config)
    clickable = smart_tags.added(info.label_config) if clicks else info.label_config
    register(settings, studio, project_id, extra_params, clicks=clicks)
    if clickable != info.label_config:
        studio.set_label_config(project_id, clickable)
    queue_tab.ensure(studio, project_id)
    return f"Project {project_id} ({info.title}) is connected to {settings.public_url}."


def register(
    settings: Settings,
    studio: LabelStudio,
    project_id: int,
    extra_params: str = "",
    *,
    clicks: bool = False,
) -> None:
    """Create or repair the entry at our address and its webhook; both may be there already.

    Without `clicks` the entry keeps its own setting for smart tools.

    Raises:
        LabelStudioError: When Label Studio cannot be reached, or does not keep the options.
        ConfigError: When Label Studio may not or cannot call us.
    """
    fields: dict[str, Any] = {
        "url": settings.public_url,
        "project": project_id,
        "title": TITLE,
        **entry_credentials(settings),
    }
    if extra_params:
        fields["extra_params"] = json.loads(extra_params)
    if clicks:
        fields["is_interactive"] = True
    for entry in studio.entries(project_id):
        if is_at(entry, settings.public_url) and is_of_another(entry):
            raise ConfigError(
                f"{settings.public_url} is the address of another service of project {project_id}, "
                f"which answers {str(entry['model_version'])[:60]!r}.",
                "Set PORT, or BACKEND_URL, to the address of this service.",
            )
    headers = signed_headers(settings)
    try:
        kept = _store(studio, fields)
        studio.ensure_webhook(project_id, webhook_url(fields), headers)
    except LabelStudioError as error:
        raise explained(error, settings.public_url) from None
    if headers:
        _take_back_refusals(settings, project_id)
    if not kept:
        raise LabelStudioError(
            "The project is connected, but Label Studio does not keep its options.",
            "Does another service change the project's backend entry? Run connect again.",
        )


def _store(studio: LabelStudio, fields: Mapping[str, Any]) -> bool:
    """Create or change the entry; return whether Label Studio keeps the options.

    Label Studio reads the row of an entry, asks us, and then writes the whole row. A change that
    began before ours, such as the title of a new queue, thus brings the earlier options back.
    """
    for _ in range(TRIES):
        began = time.monotonic()
        studio.connect(fields)
        if "extra_params" not in fields:
            return True
        # The other change takes about as long as ours.
        time.sleep(min(2 * (time.monotonic() - began), MOST_SECONDS))
        ours = [e for e in studio.entries(fields["project"]) if is_at(e, fields["url"])]
        if ours and as_object(ours[0].get("extra_params")) == as_object(fields["extra_params"]):
            return True
    return False


def _take_back_refusals(settings: Settings, project_id: int) -> None:
    """Clear the report of refused events: from now on the webhook sends the secret."""
    with suppress(FirstlightError):  # the next accepted event does the same
        store = open_known(settings.database)
        store.projects.update(project_id, webhook_refused_at=0.0)
        store.close()


def signed_headers(settings: Settings) -> dict[str, str]:
    """Return the headers that a webhook to this service must send.

    Raises:
        ConfigError: When the database should hold the secret, and there is no database.
        StorageError: When the database cannot be opened.
    """

    def stored() -> str:
        store = open_known(settings.database)
        try:
            return store.installation.webhook_secret
        finally:
            store.close()

    return webhook_headers(webhook_secret(settings, stored))


def disconnect(
    settings: Settings, studio: LabelStudio, store: Store | None, project_id: int
) -> Iterator[str]:
    """Remove our entries, webhooks and tab from a project, end its rounds; yield what was done.

    Entries and webhooks of other services stay, and so does a tab that a person changed. A second
    call finds nothing to remove.

    Args:
        settings: The settings of this installation.
        studio: Label Studio.
        store: The database; None without one.
        project_id: The project.

    Raises:
        LabelStudioError: When Label Studio does not answer.
    """
    answer = store.installation.answer(store.projects.get(project_id)) if store else ""
    try:
        entries = studio.entries(project_id)
    except NotFound:
        _mark_disconnected(store, project_id)
        yield f"Label Studio has no project {project_id}, or this token may not see it."
        return
    at_our_url = [entry for entry in entries if is_at(entry, settings.public_url)]
    ours = [
        *(entry for entry in at_our_url if not is_of_another(entry)),
        *(entry for entry in entries if entry not in at_our_url and is_of(entry, answer)),
    ]
    # Webhooks first: a removed entry no longer tells the address of its webhook.
    urls = dict.fromkeys(map(webhook_url, ours))
    if not at_our_url:
        urls[settings.public_url + "/webhook"] = None
    for url in urls:
        if number := studio.remove_webhooks(project_id, url):
            yield f"Removed {number} webhook{'s'[: number > 1]} to {url}."
    for entry in ours:
        studio.remove_entry(entry["id"])
        yield f"Removed the backend entry {entry['id']} ({entry['url']})."
    # Only now: on every call about an entry Label Studio calls our /setup, which would connect the
    # project again.
    _mark_disconnected(store, project_id)
    yield from queue_tab.remove(studio, project_id)
    yield from review_tab.remove(studio, project_id)
    if store:
        review_list.forget_tab(store, project_id)
    if left := len(entries) - len(ours):
        yield f"Left {left} backend {'entry' if left == 1 else 'entries'} of other services alone."


def _mark_disconnected(store: Store | None, project_id: int) -> None:
    """Let the worker skip a project until a person connects it again."""
    if store:
        store.projects.update(project_id, disconnected=True, vanished_at=0.0, problem="", fix="")


def forget(settings: Settings, store: Store | None, project_id: int) -> str:
    """Delete all that is kept here of a disconnected project; return a sentence about it.

    Without a database the project's folder may still exist. The worker deletes what this call
    could not, after an error or while other processes use the database.

    Raises:
        ConfigError: While a worker runs a round of the project.
        StorageError: When the artifacts cannot be reached; a second call deletes the rest.
    """
    project = store.projects.get(project_id) if store else None
    if project is not None and project.step and workers_running(settings):
        raise ConfigError(
            f"Nothing was forgotten: a worker is busy with project {project_id} ({project.step}).",
            "Run the same command again after this round, or stop the worker first.",
        )
    if store:
        store.projects.forget(project_id)
    files = Artifacts(settings.data_dir, settings.artifacts_url).of(project_id)
    files.clear()
    for folder in (files.folder, files.scratch):
        if folder.exists():
            raise ConfigError(
                f"Some files of {folder} could not be deleted.", "Delete the folder by hand."
            )
    said = f"Forgot project {project_id}: its models, maps, rounds and ledger are deleted."
    if store and not erasing.forgotten(store, project_id):
        said += (
            " Another process still uses the database, whose log may hold traces of the project: "
            "the worker overwrites them within a minute, or at its next start."
        )
    return said


def workers_running(settings: Settings) -> int:
    """Return how many workers use this database.

    On SQLite this takes the worker's lock for an instant. On PostgreSQL it counts workers with a
    recent beat, so a killed worker counts for another minute.
    """
    database = sqlite_path(settings.database)
    if database is None:
        store = open_known(settings.database)
        try:
            return len(lively(store.workers))
        finally:
            store.close()
    path = worker_lock(database)
    if not path.exists():
        return 0
    try:
        with FileLock(path, timeout=0):
            return 0
    except Timeout:
        return 1
    except OSError as error:
        raise StorageError(
            f"{path} cannot be opened ({error.strerror}).",
            "Run this command as the user that runs the worker.",
        ) from None


def is_of(entry: Entry, answer: str) -> bool:
    """Return whether an entry holds our answer to /setup; an empty answer matches no entry."""
    return bool(answer) and entry.get("model_version") == answer


def is_connected(entry: Entry) -> bool:
    """Return whether Label Studio reached the service behind an entry when it last looked."""
    return entry.get("state") == "CO"


def is_of_another(entry: Entry) -> bool:
    """Return whether another service than Firstlight answers at an entry's address.

    SAM and most examples listen on port 9090 as well.
    """
    version = str(entry.get("model_version") or "")
    return is_connected(entry) and bool(version) and not _OUR_ANSWERS.match(version)


def is_at(entry: Entry, url: str) -> bool:
    """Return whether an entry has this address."""
    return str(entry["url"]).rstrip("/") == url


def webhook_url(entry: Entry) -> str:
    """Return the address of the webhook to the service behind an entry."""
    return str(entry["url"]).rstrip("/") + "/webhook"


def explained(error: LabelStudioError, url: str) -> LabelStudioError | ConfigError:
    """Return Label Studio's complaint about our address as an error with a fix."""
    if "reserved network address" in error.what:
        return LacksVariables.of(
            f"Label Studio may not call {url}: it blocks private addresses.",
            {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"},
            ", then connect again",
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
            f"Run `{PROGRAM} start` there, or set BACKEND_URL to an address that Label "
            "Studio can reach.",
        )
    return error
