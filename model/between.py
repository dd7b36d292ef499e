"""Draw a slice between two drawn slices of its volume, and tell where that beats a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from model import resampling

Masks = NDArray[np.bool_]
Distances = NDArray[np.float64]

LEAST = 10  # drafts on which the verdict about a gap rests
TWICE = 2.0  # gaps from one to twice as long are alike enough to be judged together


def between(before: Masks, after: Masks, place: float) -> Masks:
    """Return the masks of a slice between two drawn slices, shape (c, h, w).

    A pixel is drawn if the mean of its signed distances to the two outlines, weighted by nearness,
    lies inside. A class that is drawn in one slice only shrinks, and ends half-way.

    Args:
        before: Masks of the drawn slice before, shape (c, h, w).
        after: Masks of the drawn slice behind, of the same shape.
        place: Of the slice between them: 0 at `before`, 1 at `after`.

    Raises:
        ValueError: If the shapes differ, or `place` is not from 0 to 1.
    Source:
        Raya & Udupa 1990, shape-based interpolation, https://doi.org/10.1109/42.52980.
    """
    if before.shape != after.shape or before.ndim != 3:
        raise ValueError(
            f"masks of shape {before.shape} and {after.shape}: expected one shape (c, h, w)"
        )
    if not 0 <= place <= 1:
        raise ValueError(f"place is {place}: expected a number from 0 (before) to 1 (after)")
    return np.stack([_between(*pair, place) for pair in zip(before, after, strict=True)])


def _between(before: Masks, after: Masks, place: float) -> Masks:
    if not before.any() and not after.any():
        return np.zeros_like(before)
    first, last = _signed(before, after), _signed(after, before)
    return np.asarray((1 - place) * first + place * last > 0)


def _signed(mask: Masks, other: Masks) -> Distances:
    """Return each pixel's distance to the outline of a mask, positive inside.

    An empty mask has no outline: it counts as being as far away as the other mask is deep.
    """
    if not mask.any():
        return np.full(mask.shape, -_signed(other, other).max())
    # The outline runs between pixels, half a pixel from the centres on both sides.
    inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] - 0.5
    outside = distance_transform_edt(~mask) - 0.5
    return np.where(mask, inside, -outside)


def reach(gaps: Sequence[float], gains: Sequence[float], *, seed: int = 0) -> float:
    """Return the longest gap up to which `between` draws better than the network; 0 for none.

    A gap is won if, over the slices whose gap is as long and at most twice as long, at least LEAST,
    the 95 % interval of the mean gain lies above 0. Shorter gaps are easier, and count as won too.

    Args:
        gaps: Distance between the two drawn slices, for each slice that was drawn both ways.
        gains: Dice of `between` minus Dice of the network, for the same slices.
        seed: Of the bootstrap.
    """
    known, gained = np.asarray(gaps, float), np.asarray(gains, float)
    won = [gap for gap in np.unique(known) if _is_won(gap, known, gained, seed)]
    return float(max(won, default=0.0))


def _is_won(gap: float, gaps: NDArray[np.float64], gains: NDArray[np.float64], seed: int) -> bool:
    alike = gains[(gaps >= gap) & (gaps <= TWICE * gap)]
    interval = resampling.mean(alike, seed=seed) if len(alike) >= LEAST else None
    return interval is not None and interval.low > 0
