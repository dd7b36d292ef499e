"""A rule for clicks that was tried: correct long, thin parts along the draft's outline.

The odds that a pixel around a click is wrong too fall with its own distance from the outline, and
more slowly with the length of the path to the click. The weights come from a logistic regression on
the pixels around simulated clicks (drafts of 5 labels, draw 0 of montgomery and wingspan130). Then
they were adjusted on the share of the missing Dice that two clicks removed from these drafts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.clicks import Click, geodesic
from model.clicks.pixel_graph import Floats, window_around

LARGEST = 0.065  # a wrong part counts at most as so large, as a share of the longer side
BASE = -1.8
SMALLER = 1.75  # times -ln(size of the wrong part / longer side)
ALONG = 2.4  # times -ln(path to the click / size of the wrong part + AROUND)
AROUND = 0.2
ACROSS = 2.2  # times -(distance from the outline / the click's distance from it)


def corrected(
    image: NDArray[np.float32], draft: NDArray[np.float32], clicks: Sequence[Click]
) -> NDArray[np.float32]:
    """Return a draft (h, w) of one class; the pixels that the clicks corrected are 0 or 1."""
    smooth, found = geodesic.scaled(image), draft.copy()
    for number, click in enumerate(clicks):
        _correct(smooth, found, click)
        for said in clicks[: number + 1]:
            found[said.row, said.column] = said.positive
    return found


def _correct(smooth: Floats, found: NDArray[np.float32], click: Click) -> None:
    """Change the pixels that are probably wrong too, if the draft contradicts the click."""
    side, here = max(found.shape), (click.row, click.column)
    opposed = (found > 0.5) != click.positive
    if not opposed[here]:
        return
    window = window_around([here], round(geodesic.REACH * side), found.shape)
    depth = geodesic.depth_of(opposed, side)
    size = min(depth[here], LARGEST * side)
    first = BASE - SMALLER * np.log(size / side)
    start = click.row - window[0].start, click.column - window[1].start
    path = geodesic.path_lengths(smooth[window], start, size * float(np.exp(first / ALONG)))
    odds = first - ALONG * np.log(path / size + AROUND) - ACROSS * depth[window] / depth[here]
    found[window][opposed[window] & (odds > 0)] = click.positive
