"""A Label Studio that answers whatever a test says."""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import SecretStr

from backend.label_studio.client import LabelStudio
from backend.settings import Settings
from tests.backend.fake_label_studio import URL


def opened(key: str, handler: Any) -> LabelStudio:
    settings = Settings(label_studio_url=URL, label_studio_api_key=SecretStr(key))
    return LabelStudio(settings, httpx.Client(transport=httpx.MockTransport(handler)))
