"""Connect a project: its backend entry, its webhook, and what stands in the way explained."""

from __future__ import annotations

import base64
import json
from typing import Any

from backend import labels
from backend.errors import ConfigError, LabelStudioError
from backend.gateway import LabelStudio
from backend.publishing import credentials
from backend.settings import Settings, parse_options

TITLE = "Firstlight"


def connect(settings: Settings, studio: LabelStudio, project_id: int, extra_params: str) -> str:
    """Create or mend the project's entry and webhook; return a sentence about it.

    Raises:
        FirstlightError: When Label Studio cannot be reached, cannot reach us, or the project's
            labelling interface or options cannot be served.
    """
    parse_options(extra_params)  # so that a mistake is told here rather than stored there
    info = studio.project(project_id)
    labels.parse(info.label_config)
    fields: dict[str, Any] = {
        "url": settings.public_url,
        "project": project_id,
        "title": TITLE,
        **credentials(settings),
    }
    if extra_params:
        fields["extra_params"] = json.loads(extra_params)
    try:
        studio.connect(fields)
        studio.ensure_webhook(project_id, f"{settings.public_url}/webhook", _headers(settings))
    except LabelStudioError as error:
        raise _explained(error, settings) from None
    return f"Project {project_id} ({info.title}) is connected to {settings.public_url}."


def _headers(settings: Settings) -> dict[str, str]:
    """Label Studio signs no webhook by itself, so the header is stored with it."""
    if not settings.basic_auth_user:
        return {}
    pair = f"{settings.basic_auth_user}:{settings.basic_auth_pass.get_secret_value()}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _explained(error: LabelStudioError, settings: Settings) -> LabelStudioError | ConfigError:
    if "reserved network address" in error.what:
        return ConfigError(
            f"Label Studio may not call {settings.public_url}: it blocks private addresses.",
            "Start Label Studio with ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false, "
            "then connect again.",
        )
    if "can't connect" in error.what.lower():
        return ConfigError(
            f"Label Studio cannot reach {settings.public_url}.",
            "Run `python -m backend start` there, or set BACKEND_URL to an address that Label "
            "Studio can reach.",
        )
    return error
