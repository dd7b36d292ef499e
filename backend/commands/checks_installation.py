"""The doctor's checks of this machine and of Label Studio: each returns a Finding, or raises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from backend import PROGRAM
from backend.commands import neighbours
from backend.commands.connection import explained, signed_headers, workers_running
from backend.commands.findings import Check, Finding, Load
from backend.errors import ConfigError, LabelStudioError, LacksVariables, Unreachable, reason
from backend.label_studio import probes
from backend.label_studio.client import LabelStudio
from backend.label_studio.credentials import SECRET_HEADER
from backend.options import parse_options
from backend.settings import Settings, prepare_data_dir, require_api_key
from backend.storage import bucket, ledger
from backend.storage.artifacts import Artifacts
from backend.storage.store import open_known
from backend.storage.tables import Project
from backend.worker import jobs_database

if TYPE_CHECKING:
    from model.encoders import Encoder

TESTED_WITH = "1.23.2"
FAST_IMPORT = "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"


def installation(settings: Settings) -> list[tuple[str, Check]]:
    """Return the checks of what this machine has."""
    return [
        ("data folder", lambda: data_folder(settings)),
        ("artifacts", lambda: artifacts(settings)),
        ("database", lambda: database(settings)),
        ("jobs database", lambda: jobs(settings)),
        ("worker", lambda: worker(settings)),
    ]


def data_folder(settings: Settings) -> Finding:
    """Whether DATA_DIR can be written."""
    prepare_data_dir(settings)
    return Finding("data folder", True, f"{settings.data_dir} can be written.")


def artifacts(settings: Settings) -> Finding:
    """Whether artifacts can be written to and read from ARTIFACTS_URL."""
    url = settings.artifacts_url
    if not url:
        return Finding("artifacts", True, "Artifacts lie in DATA_DIR, on this machine alone.")
    bucket.prepare(url)
    Artifacts(settings.data_dir, url).probe()
    return Finding("artifacts", True, f"{bucket.shown(url)} can be written and read.")


def database(settings: Settings) -> Finding:
    """Whether the database is there, is ours, and opens."""
    store = open_known(settings.database)
    number = len(store.projects.all())
    store.close()
    return Finding("database", True, f"It opens; {number} project{'s'[: number != 1]} known.")


def jobs(settings: Settings) -> Finding:
    """Whether DBOS can keep the rounds in its database with this Python and its SQLite."""
    jobs_database.require_known_time(settings.jobs_database)
    return Finding("jobs database", True, "DBOS can keep the rounds in it.")


def web_process(settings: Settings, web: httpx.Client) -> Finding:
    """Whether this service answers at the address that Label Studio is given."""
    url = settings.public_url
    start = f"Start it with `{PROGRAM} start`, or correct BACKEND_URL, HOST and PORT."
    try:
        answer = web.get(f"{url}/health").json()
    except httpx.HTTPError as error:
        return Finding("web process", False, f"{url} does not answer ({reason(error)}).", start)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("model_class") != "Firstlight":
        return Finding(
            "web process", False, f"Another service than Firstlight answers at {url}.", start
        )
    return Finding("web process", True, f"It answers at {url}.")


def web_access(settings: Settings, web: httpx.Client) -> Finding:
    """Whether the web process accepts webhooks and requests with these settings' secrets."""
    url, headers = settings.public_url, signed_headers(settings)
    password = settings.basic_auth_pass.get_secret_value()
    auth = (settings.basic_auth_user, password) if settings.basic_auth_user else None
    try:
        # The event names no project, so the web process ignores it.
        codes = [web.post(f"{url}/webhook", json={}, headers=headers).status_code]
        codes.append(web.get(f"{url}/versions", auth=auth).status_code)
        wrong = next((f"answers {code}" for code in codes if code != 200), "")
    except httpx.HTTPError as error:
        wrong = f"does not answer ({reason(error)})"
    if wrong:
        return Finding(
            "web access",
            False,
            f"The web process {wrong} when it is called with the credentials of this command.",
            "Give the web process and this command the same BASIC_AUTH_USER, BASIC_AUTH_PASS, "
            "WEBHOOK_SECRET, DATA_DIR and DATABASE_URL.",
        )
    by_whom = f"with the header {SECRET_HEADER}" if headers else "from everybody: no secret is set"
    return Finding("web access", True, f"It accepts webhooks {by_whom}.")


def worker(settings: Settings) -> Finding:
    """Whether a worker runs."""
    running = workers_running(settings)
    if not running:
        what = "No worker runs."
        return Finding("worker", False, what, f"Start it with `{PROGRAM} start` (or `worker`).")
    return Finding("worker", True, "A worker runs." if running == 1 else f"{running} workers run.")


def load_encoder(settings: Settings, known: Project | None) -> Encoder:
    """Return the encoder of a project, or of the installation.

    Raises:
        ConfigError: If its weights are missing, or the device does not exist.
    """
    from backend.rounds.maps import encoding  # loads torch

    options = ledger.stored_options(known) if known else parse_options(None)
    return encoding.load(settings, options.encoder_of(settings.encoder))


def encoder(settings: Settings, load: Load) -> Finding:
    """Which encoder embeds the scans, on which device."""
    from model.recipes import resolve_device

    loaded = load()
    note = loaded.substitution if loaded.substituted else ""
    return Finding("encoder", True, f"{loaded.name} on {resolve_device(settings.device)}.", note)


def click_model(folder: Path) -> Finding:
    """Whether the files of CLICK_MODEL are a network that can answer clicks."""
    from backend.rounds.drafts.click_model import ClickModel  # loads onnxruntime

    ClickModel(folder)
    return Finding("click model", True, f"The network in {folder} answers clicks.")


def label_studio(studio: LabelStudio, url: str, web: httpx.Client) -> Finding:
    """Whether Label Studio answers, and which release it is; if not, where another one answers."""
    try:
        version = studio.server_version()
    except Unreachable as error:
        elsewhere = next(neighbours.search(web, url), None)
        if elsewhere is None:
            raise
        raise ConfigError(
            f"{error.what} Label Studio {elsewhere.version} answers at {elsewhere.url}.",
            f"Set LABEL_STUDIO_URL={elsewhere.url} for this command and for the service.",
        ) from None
    other = version.split(".")[:2] != TESTED_WITH.split(".")[:2]
    note = f"Firstlight is tested with {TESTED_WITH}." if other else ""
    return Finding("Label Studio", True, f"{version} answers at {url}.", note)


def token(settings: Settings, studio: LabelStudio) -> Finding:
    """Whether there is a token, whether it is accepted, and which kind it is."""
    require_api_key(settings)
    studio.check_token()
    return Finding("token", True, f"The {studio.token_kind} is accepted.")


def backend_address(studio: LabelStudio, url: str) -> Finding:
    """Whether Label Studio lets a backend entry have our address."""
    try:
        probes.check_entry_address(studio, url)
    except LabelStudioError as error:
        raise explained(error, url) from None
    return Finding("backend address", True, f"Label Studio may call {url}.")


def webhook_address(studio: LabelStudio, url: str) -> Finding:
    """Whether Label Studio lets a webhook have our address."""
    try:
        probes.check_webhook_address(studio, f"{url}/webhook")
    except LabelStudioError as error:
        raise explained(error, url) from None
    return Finding("webhook address", True, f"Label Studio may send webhooks to {url}.")


def fast_import(studio: LabelStudio, project_id: int | None) -> Finding:
    """Whether Label Studio imports queues without loading every task of a project.

    Args:
        studio: Label Studio.
        project_id: The project to ask about; None for any.
    """
    asked = project_id or probes.newest_project(studio)
    if asked is None:
        return Finding("import", True, "It is checked as soon as there is a project.")
    if probes.imports_fast(studio, asked):
        return Finding("import", True, "Label Studio imports queues the fast way.")
    raise LacksVariables.of(
        "Label Studio loads all tasks of a project for every part of a queue, which takes seconds "
        "in large projects.",
        {FAST_IMPORT: "true"},
    )
