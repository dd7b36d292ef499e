"""Score a part of a large pool, and estimate the uncertainty of the other scans.

A network that scores 100,000 scans takes minutes, in which a person draws with an old queue. So a
round scores as many scans as time allows: those that the last models found most uncertain, those
that are far from every label, and a random share, in which what nobody expects is found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model import pool

Floats = NDArray[np.floating]
Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]

NEIGHBOURS = 5  # scored scans from which the uncertainty of another one is estimated
PAIRS = 2_000_000_000  # of an unknown and a known scan: so many distances take about 7 s


def to_score(
    known: Floats,
    coordinates: Floats,
    labelled: Flags,
    candidates: Flags,
    *,
    limit: int,
    seed: int = 0,
) -> Rows:
    """Return the rows to score, ascending: all candidates, or `limit` of them.

    Args:
        known: The last known uncertainty of each scan, shape (n,); NaN if it was never scored.
        coordinates: The map, shape (n, m).
        labelled: Which scans are labelled, shape (n,).
        candidates: Which scans are to be scored, shape (n,).
        limit: The largest number of rows, at least 1. A third of them are the most uncertain ones,
            a third the farthest from every label; the others are drawn at random.
        seed: Of the draw.

    Raises:
        ValueError: If limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit {limit}: expected at least 1")
    rows = np.flatnonzero(candidates)
    if len(rows) <= limit:
        return rows
    share = limit // 3
    uncertain = _highest(np.nan_to_num(known[rows], nan=-np.inf), share, known[rows] > -np.inf)
    far: Flags = np.zeros(len(rows), bool)
    if labelled.any():
        distances = pool.nearest(coordinates[rows], coordinates[labelled])
        far = _highest(distances, share, ~uncertain)
    rest = np.flatnonzero(~uncertain & ~far)
    chosen = np.random.default_rng(seed).permutation(rest)[: limit - uncertain.sum() - far.sum()]
    return np.sort(rows[np.concatenate([np.flatnonzero(uncertain | far), chosen])])


def estimated(known: Floats, coordinates: Floats, wanted: Flags, *, seed: int = 0) -> Floats:
    """Return the uncertainties, with estimates where wanted ones are unknown, shape (n,).

    The estimate is the mean over the NEIGHBOURS nearest scans on the map whose uncertainty is
    known. If none is known, nothing is estimated. Every round of a project adds known scans, so in
    a large pool a part of them is drawn, at least `pool.SAMPLE`, that makes at most PAIRS.

    Args:
        known: The uncertainty of each scan, shape (n,); NaN if it is unknown.
        coordinates: The map, shape (n, m).
        wanted: Which scans need a value, shape (n,).
        seed: Of the draw.
    """
    there, missing = np.flatnonzero(~np.isnan(known)), np.isnan(known) & wanted
    if not len(there) or not missing.any():
        return known
    most = max(pool.SAMPLE, PAIRS // int(missing.sum()))
    there = np.sort(np.random.default_rng(seed).permutation(there)[:most])
    number = min(NEIGHBOURS, len(there))
    nearest = pool.neighbours(coordinates[missing], coordinates[there], number)
    filled = known.copy()
    filled[missing] = known[there][nearest].mean(axis=1)
    return filled


def _highest(values: Floats, number: int, allowed: Flags) -> Flags:
    """Return which `number` of the allowed values are highest, shape (n,)."""
    order = np.argsort(np.where(allowed, -values, np.inf), kind="stable")
    chosen = np.zeros(len(values), bool)
    chosen[order[: min(number, int(allowed.sum()))]] = True
    return chosen
