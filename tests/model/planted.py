"""Pools whose structure is known, and small ones full of ties, for every strategy alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]


def blobs(number: int, each: int, seed: int = 0) -> Array:
    """Round clusters on a circle, rows sorted by cluster."""
    rng = np.random.default_rng(seed)
    angles = np.arange(number) * 2 * np.pi / number
    centres = 20 * np.column_stack([np.cos(angles), np.sin(angles)])
    return np.repeat(centres, each, axis=0) + rng.normal(size=(number * each, 2))


def sheet(n: int, seed: int, dim: int = 96) -> Array:
    """One smooth curved sheet in many dimensions: scans without clusters."""
    rng = np.random.default_rng([1, seed])
    waves, phases = 1.5 * rng.normal(size=(2, 3 * dim)), rng.uniform(0, 2 * np.pi, 3 * dim)
    bent = np.sin(rng.uniform(-1, 1, (n, 2)) @ waves + phases)
    spread: Array = bent @ rng.normal(size=(3 * dim, dim)) / np.sqrt(3 * dim)
    return spread + 0.02 * rng.normal(size=spread.shape)


def clear_blobs(number: int, n: int, seed: int, dim: int = 96) -> Array:
    """Round clusters whose centres lie 12 deviations apart in many dimensions."""
    rng = np.random.default_rng([2, seed])
    centres = 12 / np.sqrt(2) * np.linalg.qr(rng.normal(size=(dim, dim)))[0][:number]
    scattered: Array = centres[np.arange(n) % number] + rng.normal(size=(n, dim))
    return scattered


@st.composite
def coarse_pools(draw: st.DrawFn, most: int = 14) -> dict[str, Any]:
    """A small pool on a coarse grid, hence full of duplicates, with labels and groups."""
    n = draw(st.integers(0, most))
    width = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    share = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    return {
        "coordinates": rng.integers(0, width, (n, 2)).astype(np.float32),
        "labelled": rng.random(n) < share,
        "groups": draw(st.sampled_from([None, rng.integers(0, 4, n)])),
        "seed": draw(st.integers(0, 3)),
    }
