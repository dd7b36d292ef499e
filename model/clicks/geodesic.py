"""Correct a draft around a click, as far as a geodesic distance says that pixels are alike.

A click says that the draft is wrong at its pixel. By how much is its logit there; the same error is
assumed for pixels that a path without edges of the picture leads to, and fades with the length of
the path. People click into the middle of what is wrong. So the distance of a click from the draft's
outline tells how large the wrong part is: the influence reaches a few times as far, and not much
farther across the outline than to the mirror image of the outline behind the click.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from model.clicks.pixel_graph import Floats, neighbours, smoothed, window_around
from model.clicks.prompts import Click

REACH = 0.25  # nothing changes farther from a click, as a share of the longer side
NEAR, FAR = 0.04, 0.06  # bounds of the size that is assumed of a wrong part, likewise
SPREAD = 2.0  # a wrong part is so many times longer than the click is far from the outline
ACROSS = 1.5  # ... and so many times as wide
MOST_LOGIT = 6.0
MARGIN = 3.0  # logits beyond zero at the clicked pixel
EDGES = 1.0  # weight of the differences between neighbours; 0 is the Euclidean distance
MOST_EDGE = 8.0  # a difference counts at most as so many mean differences


def corrected(
    image: NDArray[np.float32], draft: NDArray[np.float32], clicks: Sequence[Click]
) -> NDArray[np.float32]:
    """Return a draft (h, w) of one class, corrected by the clicks in their order.

    Pixels farther than REACH from every click keep their probability, up to rounding.

    Args:
        image: Shape (h, w) or (h, w, 3), values in [0, 1].
        draft: Probability of the class at every pixel.
        clicks: What a person pointed at, oldest first.
    """
    smooth = scaled(image)
    logits = _logits(draft)
    for number, click in enumerate(clicks):
        logits = _corrected(smooth, logits, click)
        for said in clicks[: number + 1]:
            logits[said.row, said.column] = 1.0 if said.positive else -1.0
    touched = np.abs(logits - _logits(draft)) > 0
    probabilities = 1 / (1 + np.exp(-logits))
    return np.where(touched, probabilities, draft).astype(np.float32)


def scaled(image: NDArray[np.float32]) -> Floats:
    """Return an image with less noise, in units of its mean difference between neighbours.

    Shape (h, w, channels).
    """
    smooth = smoothed(image)
    steps = [np.abs(np.diff(smooth, axis=axis)).sum(axis=2) for axis in (0, 1)]
    return smooth / (float(np.mean([step.mean() if step.size else 0.0 for step in steps])) + 1e-6)


def _logits(draft: NDArray[np.float32]) -> Floats:
    bounded = np.clip(draft.astype(np.float64), 1e-6, 1 - 1e-6)
    logits: Floats = np.clip(np.log(bounded / (1 - bounded)), -MOST_LOGIT, MOST_LOGIT)
    return logits


def _corrected(smooth: Floats, logits: Floats, click: Click) -> Floats:
    """Return logits after a click; unchanged if they agree with it already."""
    side, sign = max(logits.shape), 1.0 if click.positive else -1.0
    here = (click.row, click.column)
    opposed = (logits > 0) != click.positive
    if not opposed[here]:
        return logits
    window = window_around([here], round(REACH * side), logits.shape)
    depth = depth_of(opposed, side)
    size = min(depth[here], FAR * side)
    reach = max(NEAR * side, SPREAD * size)
    start = click.row - window[0].start, click.column - window[1].start
    path = path_lengths(smooth[window], start, 3 * reach) / reach
    across = np.maximum(depth[window] - max(ACROSS * size, depth[here]), 0) / (size / 2 + 1)
    influence = np.exp(-(np.minimum(path, 9) ** 2) - np.minimum(across, 9) ** 2)
    influence[influence < 1e-3] = 0
    changed = logits.copy()
    changed[window] += sign * (MARGIN - sign * logits[here]) * influence
    return changed


def depth_of(opposed: NDArray[np.bool_], side: int) -> Floats:
    """Return how far each opposed pixel lies from the draft's outline; `side` without outline."""
    if opposed.all():
        return np.full(opposed.shape, float(side))
    depth: Floats = ndimage.distance_transform_edt(opposed)
    return depth


def path_lengths(smooth: Floats, start: tuple[int, int], most: float) -> Floats:
    """Return the length of the shortest path from a pixel to each other one, at most `most`."""
    height, width, channels = smooth.shape
    first, second, length = neighbours(height, width, diagonal=True)
    colours = smooth.reshape(-1, channels)
    edge = np.minimum(np.abs(colours[first] - colours[second]).sum(axis=1), MOST_EDGE)
    cost = length * (1 + EDGES * edge) / (1 + EDGES)
    graph = sparse.csr_matrix((cost, (first, second)), shape=(height * width,) * 2)
    found = csgraph.dijkstra(graph, directed=False, indices=start[0] * width + start[1], limit=most)
    lengths: Floats = np.minimum(found, 9 * most).reshape(height, width)
    return lengths
