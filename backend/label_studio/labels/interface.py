"""The labelling interface of an imported project: masks on a slice, its volume beside it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

# The labels stand above the image: below a large one people would have to scroll to them.
_CONFIG = """<View>
  <BrushLabels name="tag" toName="image">
{labels}
  </BrushLabels>
  <Image name="image" value="$image" zoom="true" zoomControl="true" brightnessControl="true" \
contrastControl="true"/>
{viewer}</View>
"""
VIEWER = '<Image name="volume" valueList="$slices"/>'
_VIEWER = f"""  <Header value="The slice and its neighbours, in the order of the volume" size="5"/>
  {VIEWER}
"""


def of_slices(labels: Sequence[str], *, viewer: bool) -> str:
    """Return a label config with one brush a class.

    Args:
        labels: The classes.
        viewer: Whether the neighbours of a slice are shown below it.
    """
    lines = "\n".join(f"    <Label value={quoteattr(label)}/>" for label in labels)
    return _CONFIG.format(labels=lines, viewer=_VIEWER if viewer else "")


def has_viewer(config: str) -> bool:
    """Return whether a label config shows the neighbours of a slice."""
    return "$slices" in config
