"""Bring the parts of embeddings to one scale, so that none of them decides alone.

An embedding may hold several descriptions of a scan side by side, in units of their own. Which
scale is right depends on the scans, so it follows from the whole pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROUNDING = 1e-5  # a spread below this share of the values is rounding, not a difference of scans


def factors(sample: Array, widths: Sequence[int]) -> Array:
    """Return the factor of each feature, shape (d,).

    One part, or an empty pool, has a single factor of 1, shape ().

    The spread of a part is the root mean square distance of scans from their mean; after scaling
    it is 1 for every part. A part that is the same for all scans gets 0: it tells no scans apart.

    Args:
        sample: Embeddings of scans of the pool, shape (n, d).
        widths: The number of features of each part; () for a single part.
    Raises:
        ValueError: If the widths do not add up to d.
    """
    if len(widths) <= 1 or not len(sample):
        return np.array(1.0)
    if sum(widths) != sample.shape[1]:
        raise ValueError(
            f"embeddings have {sample.shape[1]} features, their parts {sum(widths)}: give the"
            " widths of the encoder that made them"
        )
    spread = _root_mean_square(sample - sample.mean(axis=0), widths)
    tells = spread > ROUNDING * _root_mean_square(sample, widths)
    return np.repeat(np.divide(1.0, spread, out=np.zeros_like(spread), where=tells), widths)


def _root_mean_square(rows: Array, widths: Sequence[int]) -> Array:
    """Return the root mean square length of the vectors of each part, shape (parts,)."""
    starts = np.cumsum([0, *widths[:-1]])
    squares = np.square(rows, dtype=np.float64).mean(axis=0)
    lengths: Array = np.sqrt(np.add.reduceat(squares, starts))
    return lengths
