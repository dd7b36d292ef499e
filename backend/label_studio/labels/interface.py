"""The labelling interface of an imported project: masks on a slice, or on the pages of a slab."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

BRUSH, SHOWN = "tag", "image"  # names of the tag that draws, and of the image
# The labels stand above the image: below a large one people would have to scroll to them.
_DRAWING = f"""<BrushLabels name="{BRUSH}" toName="{SHOWN}">
{{labels}}
</BrushLabels>
<Image name="{SHOWN}" {{source}} zoom="true" zoomControl="true" brightnessControl="true" \
contrastControl="true"/>"""
VIEWER = '<Image name="volume" valueList="$slices"/>'
_BESIDE = """<View style="display: flex; gap: 1em">
<View style="flex: 60%; min-width: 0">
{drawing}
</View>
<View style="flex: 40%; min-width: 0">
<Header value="Slice $slice and its neighbours" size="5"/>
{viewer}
</View>
</View>"""


def of_slices(labels: Sequence[str], *, viewer: bool) -> str:
    """Return a label config with one brush a class.

    Args:
        labels: The classes.
        viewer: Whether the neighbours of a slice are shown beside it.
    """
    lines = _label_tags(labels)
    drawing = _DRAWING.format(labels=lines, source='value="$image"')
    inside = _BESIDE.format(drawing=drawing, viewer=VIEWER) if viewer else drawing
    return f"<View>\n{inside}\n</View>\n"


def of_slabs(labels: Sequence[str]) -> str:
    """Return a label config with one brush a class, to draw on every page of a slab."""
    drawing = _DRAWING.format(labels=_label_tags(labels), source='valueList="$slices"')
    return f"<View>\n{drawing}\n</View>\n"


def _label_tags(labels: Sequence[str]) -> str:
    return "\n".join(f"<Label value={quoteattr(label)}/>" for label in labels)


def has_viewer(config: str) -> bool:
    """Return whether a label config shows the neighbours of a slice."""
    return "$slices" in config
