"""The smart tags of a labelling interface: with them people ask for a mask by clicks and boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from backend.errors import UnsupportedLabelConfig
from backend.label_studio import labels

CLICKS, BOXES = "KeyPointLabels", "RectangleLabels"
# The outermost tag, after comments and declarations, which may hold what looks like a tag.
_OUTERMOST = re.compile(
    r"""(?:[^<]|<!--.*?-->|<\?.*?\?>)*+<[^!?](?:[^<>"']|"[^"]*"|'[^']*')*>""", re.DOTALL
)
_NAMES = {CLICKS: "firstlight-clicks", BOXES: "firstlight-boxes"}


def added(xml: str) -> str:
    """Return a labelling interface with smart tags for all labels that a brush draws.

    An interface that has smart tags already is returned as it is. Else they come before all other
    tags, because Label Studio shows buttons below a large image only after scrolling.

    Raises:
        UnsupportedLabelConfig: If it cannot be served, with smart tags or without, or no brush
            draws the answers.
    """
    config = labels.parse(xml)
    brushed = brushed_labels(config)
    if not brushed:
        raise UnsupportedLabelConfig(
            "The answer to a click is a brush mask, but no brush draws a label of this project.",
            "Add BrushLabels with the labels inside, then connect again with --clicks.",
        )
    if config.prompts:
        return xml
    tags = "".join(_tag(kind, config, brushed) for kind in _NAMES)
    start = _OUTERMOST.match(xml)
    end = start.end() if start else 0
    return _checked(f"{xml[:end]}\n{tags}{xml[end:]}")


def brushed_labels(config: labels.LabelConfig) -> list[str]:
    """Return the labels that a brush draws, so that a click on them can be answered."""
    return [label for label in config.labels if config.tool_for(label).shape == "brush"]


def _checked(xml: str) -> str:
    """Return an interface with smart tags as it is; raise if Firstlight could not serve it."""
    try:
        prompts = labels.parse(xml).prompts
    except UnsupportedLabelConfig as error:
        raise UnsupportedLabelConfig(
            f"With smart tags this labelling interface could not be served: {error.what}",
            "Smart tags repeat each label of a brush twice. Remove the tags and labels that nobody "
            "uses, then connect again with --clicks.",
        ) from None
    if not prompts:
        raise UnsupportedLabelConfig(
            "The smart tags could not be added to this labelling interface.",
            "Add them by hand, as docs/label-configs.md says, then connect again with --clicks.",
        )
    return xml


def _tag(kind: str, config: labels.LabelConfig, brushed: Sequence[str]) -> str:
    inside = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in brushed)
    to = f"name={quoteattr(_NAMES[kind])} toName={quoteattr(config.image_name)}"
    return f'  <{kind} {to} smart="true" smartOnly="true">\n{inside}  </{kind}>\n'
