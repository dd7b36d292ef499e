"""Read the prompts of smart tags: the clicks and boxes with which a person asks for a mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.label_studio.labels.config import LabelConfig

_CLICK, _BOX = "keypointlabels", "rectanglelabels"
MOST_PROMPTS = 100  # of one request; far more than a person clicks on a structure


@dataclass(frozen=True)
class Prompt:
    """A click or a box; all numbers are shares of the image's sides.

    Attributes:
        id: Of Label Studio's entry.
        x, y: The clicked point, or the upper left corner of the box.
        width, height: Of the box; 0 for a click.
        positive: Whether the structure is there; False for a click on what does not belong to it.
    """

    id: str
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    positive: bool = True

    @property
    def is_box(self) -> bool:
        """Whether it is a box."""
        return self.width > 0 and self.height > 0


@dataclass(frozen=True)
class Prompts:
    """The prompts of one class on one page, oldest first.

    Attributes:
        label: The class, as `LabelConfig.labels` names it.
        page: Index of the page; 0 for a task with a single image.
        paged: Whether the request named the page, so that the answer must name it too.
        given: At least one prompt.
    """

    label: str
    page: int
    paged: bool
    given: tuple[Prompt, ...]


def prompts(context: Mapping[str, Any], config: LabelConfig) -> Prompts:
    """Return the prompts of a request's context: those of its last entry's class and page.

    Label Studio sends the pending prompts of all pages together, the newest last.

    Raises:
        ValueError: If the context holds no prompt that can be answered; it says why.
    """
    result = context.get("result")
    entries = [entry for entry in result if _is_prompt(entry)] if isinstance(result, list) else []
    if not entries:
        raise ValueError("the context holds no click and no box")
    label, page = _label(entries[-1], config), _page(entries[-1])
    same = [e for e in entries if _page(e) == page and _label(e, config) == label]
    given = tuple(map(_prompt, same[-MOST_PROMPTS:]))
    return Prompts(label, page, "item_index" in entries[-1], given)


def _is_prompt(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("type") in {_CLICK, _BOX}


def _value(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    value = entry.get("value")
    if not isinstance(value, dict):
        raise ValueError("a prompt has no value")
    return value


def _label(entry: Mapping[str, Any], config: LabelConfig) -> str:
    named = _value(entry).get(entry["type"])
    label = named[0] if isinstance(named, list) and named else None
    if not isinstance(label, str) or label not in config.rows:
        raise ValueError(
            f"the label of a prompt is {str(label)[:60]!r}, expected one of "
            f"{', '.join(config.labels)}"
        )
    return config.labels[config.rows[label]]


def _page(entry: Mapping[str, Any]) -> int:
    page = entry.get("item_index", 0)
    if isinstance(page, bool) or not isinstance(page, int) or page < 0:
        raise ValueError(f"item_index is {str(page)[:60]!r}, expected a page's number from 0 on")
    return page


def _prompt(entry: Mapping[str, Any]) -> Prompt:
    value = _value(entry)
    box = entry["type"] == _BOX
    return Prompt(
        id=str(entry.get("id")),
        x=_share(value, "x"),
        y=_share(value, "y"),
        width=_share(value, "width") if box else 0.0,
        height=_share(value, "height") if box else 0.0,
        positive=box or entry.get("is_positive") is not False,
    )


def _share(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key)
    if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
        raise ValueError(f"{key} of a prompt is {str(number)[:60]!r}, expected per cent")
    return min(max(number / 100, 0.0), 1.0)
