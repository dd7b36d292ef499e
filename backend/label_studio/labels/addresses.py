"""The address of what a task shows: of its image, or of all pages of its slab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.label_studio.labels.config import LabelConfig
from backend.storage import pages


def address(data: Mapping[str, Any], config: LabelConfig) -> str:
    """Return the address of a task's image, or of a slab's pages together; "" without any.

    Args:
        data: Of the task.
        config: The labelling interface, which names the key of the image or of the pages.
    """
    value = data.get(config.image_key) or ""
    if not config.paged:
        return pages.joined([_text(value)])
    return pages.joined(_text(page or "") for page in value) if isinstance(value, list) else ""


def _text(value: object) -> str:
    """Return a text without NUL characters, which PostgreSQL cannot store."""
    return str(value).replace("\0", "")
