"""Random walker: the chance that a walk from a pixel meets a pixel of the class first.

Source: Grady 2006, "Random Walks for Image Segmentation"; with a draft as prior Grady 2005,
"Multilabel Random Walker Image Segmentation Using Prior Models".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from model.clicks.pixel_graph import Floats, neighbours, smoothed, window_around
from model.clicks.prompts import Box, Click

REACH = 0.25  # the class ends so far from every click, as a share of the longer side
SEED = 3.0 / 256  # radius of what a click surely covers, likewise
BETA = 90.0  # how strongly edges of the picture stop a walk
PRIOR = 0.003  # weight of the draft against that of a pair of equal neighbours
KNOWN = np.inf  # weight of a pixel whose class is known
ACCURACY, MOST_STEPS = 1e-5, 1_000  # of the conjugate gradients
LEAST_WEIGHT = 1e-3
FILLED = 0.2  # of a box: so much of a draft tells what the box surrounds
MIDDLE = 0.25  # of a box: half the height and width of the ellipse that surely belongs to it


def drawn(image: NDArray[np.float32], clicks: Sequence[Click]) -> NDArray[np.float32]:
    """Return probabilities (h, w) of the class around clicks, from the picture alone.

    Args:
        image: Shape (h, w) or (h, w, 3), values in [0, 1].
        clicks: At least one of them positive, else all is 0.
    """
    found = np.zeros(image.shape[:2], np.float32)
    places = [(click.row, click.column) for click in clicks if click.positive]
    if not places:
        return found
    window = window_around(places, round(REACH * max(found.shape)), found.shape)
    prior, weight = _rim(found[window].shape)
    _seed(prior, weight, clicks, window, found.shape)
    found[window] = _walk(smoothed(image)[window], prior, weight)
    return found


def corrected(
    image: NDArray[np.float32], draft: NDArray[np.float32], clicks: Sequence[Click]
) -> NDArray[np.float32]:
    """Return a draft (h, w) with clicks as seeds and the draft as prior; all clicks count alike.

    Measured beside `geodesic.corrected`, and worse (docs/benchmarks.md).
    """
    if not clicks:
        return draft
    places = [(click.row, click.column) for click in clicks]
    window = window_around(places, round(REACH * max(draft.shape)), draft.shape)
    prior, weight = draft[window].astype(np.float64), np.full(draft[window].shape, PRIOR)
    _seed(prior, weight, clicks, window, draft.shape)
    found = draft.copy()
    found[window] = _walk(smoothed(image)[window], prior, weight)
    return found


def boxed(
    image: NDArray[np.float32], draft: NDArray[np.float32] | None, box: Box
) -> NDArray[np.float32]:
    """Return probabilities of the structure in a box, at the box's own size.

    The box's rim does not belong to it. What surely does is the draft inside, or, where the draft
    covers too little of the box, an ellipse in its middle.

    Args:
        image: Shape (h, w) or (h, w, 3), values in [0, 1].
        draft: Probabilities of the class, shape (h, w); None without a model.
        box: Where the structure is; at least one pixel high and wide.
    """
    inside = smoothed(image)[box.window]
    prior, weight = _rim(inside.shape[:2])
    inner = draft[box.window] > 0.5 if draft is not None else np.zeros(prior.shape, bool)
    if inner.mean() < FILLED:
        height, width = prior.shape
        down, across = np.ogrid[:height, :width]
        far = ((down + 0.5) / height - 0.5) ** 2 + ((across + 0.5) / width - 0.5) ** 2
        inner = far <= MIDDLE**2
    inner &= weight < KNOWN  # the rim stays outside
    prior[inner], weight[inner] = 1.0, KNOWN
    return _walk(inside, prior, weight)


def _rim(shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return prior and weights of a window of which only the rim is known: it is background."""
    weight = np.full(shape, KNOWN)
    weight[1:-1, 1:-1] = 0.0
    return np.zeros(shape), weight


def _seed(
    prior: Floats,
    weight: Floats,
    clicks: Sequence[Click],
    window: tuple[slice, slice],
    shape: tuple[int, ...],
) -> None:
    """Note the pixels around each click as known; the nearest click decides."""
    radius = max(1.0, SEED * max(shape))
    down, across = np.ogrid[window]
    nearest = np.full(prior.shape, np.inf)
    for click in clicks:
        distance = np.hypot(down - click.row, across - click.column)
        covered = (distance <= radius) & (distance < nearest)
        nearest[covered] = distance[covered]
        prior[covered], weight[covered] = float(click.positive), KNOWN


def _walk(smooth: Floats, prior: Floats, weight: Floats) -> NDArray[np.float32]:
    """Return the solution of (L + W) x = W prior: smooth between edges, and `prior` where known."""
    height, width, channels = smooth.shape
    first, second, _ = neighbours(height, width, diagonal=False)
    colours = smooth.reshape(-1, channels) / (smooth.std() + 1e-6)
    alike = np.exp(-BETA * ((colours[first] - colours[second]) ** 2).sum(axis=1)) + LEAST_WEIGHT
    pairs = np.r_[alike, alike], (np.r_[first, second], np.r_[second, first])
    adjacent = sparse.coo_matrix(pairs, shape=(height * width,) * 2).tocsr()
    found, weights = prior.ravel().copy(), weight.ravel()
    free = weights < KNOWN
    if free.any():
        degrees = (np.asarray(adjacent.sum(axis=1)).ravel() + weights)[free]
        system = sparse.diags(degrees) - adjacent[free][:, free]
        right = adjacent[free][:, ~free] @ found[~free] + weights[free] * found[free]
        scale = sparse.diags(1 / degrees)
        found[free], _ = cg(system, right, rtol=ACCURACY, maxiter=MOST_STEPS, M=scale)
    walked: NDArray[np.float32] = np.clip(found, 0, 1).astype(np.float32).reshape(height, width)
    return walked
