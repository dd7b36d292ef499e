"""The smart tags of a labelling interface: with them people ask for a mask by clicks and boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from backend.errors import UnsupportedLabelConfig
from backend.label_studio import labels

CLICKS, BOXES = "KeyPointLabels", "RectangleLabels"
_OUTERMOST = re.compile(r"""<[A-Za-z](?:[^<>"']|"[^"]*"|'[^']*')*>""")
_NAMES = {CLICKS: "firstlight-clicks", BOXES: "firstlight-boxes"}


def added(xml: str) -> str:
    """Return a labelling interface with smart tags for all labels that a brush draws.

    An interface that has smart tags already is returned as it is. Else they come before all other
    tags, because Label Studio shows buttons below a large image only after scrolling.

    Raises:
        UnsupportedLabelConfig: If it cannot be served, or no brush draws the answers.
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
    return _OUTERMOST.sub(lambda found: f"{found[0]}\n{tags}", xml, count=1)


def brushed_labels(config: labels.LabelConfig) -> list[str]:
    """Return the labels that a brush draws, so that a click on them can be answered."""
    return [label for label in config.labels if config.tool_for(label).shape == "brush"]


def _tag(kind: str, config: labels.LabelConfig, brushed: Sequence[str]) -> str:
    inside = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in brushed)
    to = f"name={quoteattr(_NAMES[kind])} toName={quoteattr(config.image_name)}"
    return f'  <{kind} {to} smart="true" smartOnly="true">\n{inside}  </{kind}>\n'
