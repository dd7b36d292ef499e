"""The split into training and validation, and the gate that refuses a worse model.

Training data must not leak into validation. So whole groups are held out (a patient, a volume, or
scans with equal pixels), and a scan that ever served validation never trains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

UNKNOWN, TRAINING, VALIDATION = -1, 0, 1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def group(keys: Sequence[str], pixels: Sequence[str]) -> Ints:
    """Return the group number of each scan, shape (n,): equal for scans with equal key or pixels.

    An empty key or digest joins no scans. Joining is transitive: two patients with one identical
    scan become one group.
    """
    n = len(keys)
    # Nodes: the scans, then the different keys, then the different digests; an edge joins a scan
    # with its key or digest.
    joined = [(_numbers(keys), n), (_numbers(pixels), 2 * n)]
    rows = np.concatenate([np.flatnonzero(numbers >= 0) for numbers, _ in joined])
    columns = np.concatenate([numbers[numbers >= 0] + first for numbers, first in joined])
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(3 * n, 3 * n))
    _, components = connected_components(graph, directed=False)
    numbers: Ints = np.unique(components[:n], return_inverse=True)[1].astype(np.int64)
    return numbers


def _numbers(names: Sequence[str]) -> Ints:
    """Return the same number below n for equal names, -1 for an empty one, shape (n,)."""
    known = {"": -1}
    return np.array([known.setdefault(name, len(known) - 1) for name in names], np.int64)


def split(
    groups: Ints,
    sides: Ints,
    clusters: Ints,
    always: npt.NDArray[np.bool_],
    *,
    minimum: int = 20,
    share: float = 0.2,
) -> Ints:
    """Return the side of every labelled scan, shape (n,): TRAINING or VALIDATION.

    Args:
        groups: Group of each labelled scan, in the order in which they were labelled.
        sides: Stored side of each scan; UNKNOWN for a newly labelled scan.
        clusters: Cluster of each scan; the least represented cluster joins validation first.
        always: Scans that always belong to validation (ground truth).
        minimum: With fewer labelled groups nothing new is held out.
        share: Largest share of the groups that may be held out.

    Membership only grows: a group with one validation scan is validation as a whole.
    """
    held = set(groups[(sides == VALIDATION) | always].tolist())
    seen = set(groups[sides != UNKNOWN].tolist())
    everyone = list(dict.fromkeys(groups.tolist()))
    cluster_of = {g: int(clusters[int(np.argmax(groups == g))]) for g in everyone}
    fresh = [g for g in everyone if g not in held | seen]
    if len(everyone) >= minimum:
        while fresh and len(held) + 1 <= share * len(everyone):
            counts = Counter(cluster_of[g] for g in held)
            held.add(fresh.pop(_least(fresh, cluster_of, counts)))
    return np.where(np.isin(groups, list(held)), VALIDATION, TRAINING).astype(np.int64)


def group_means(values: Sequence[float] | Floats, groups: Sequence[int]) -> Floats:
    """Return one mean for each group: slices of one patient are no independent evidence."""
    numbers, places = np.unique(groups, return_inverse=True)
    sums = np.bincount(places, values, minlength=len(numbers))
    means: Floats = sums / np.bincount(places, minlength=len(numbers))
    return means


def refuses(live: Floats, new: Floats, *, seed: int = 0) -> bool:
    """Return whether the new model is significantly worse than the live model.

    Args:
        live: Dice of the live model on each validation scan, shape (n,).
        new: Dice of the new model on the same scans.
        seed: Of the bootstrap.

    True if the paired bootstrap's 90 % interval of the mean difference lies below 0. With fewer
    than two scans there is no interval, and the new model is accepted.
    """
    difference = np.asarray(new, float) - np.asarray(live, float)
    if difference.size < 2:
        return False
    if np.ptp(difference) == 0:
        return bool(difference[0] < 0)
    from scipy.stats import bootstrap  # slow to import, and the web process gates nothing

    interval = bootstrap(
        (difference,),
        np.mean,
        confidence_level=0.9,
        method="percentile",
        n_resamples=2_000,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return bool(interval.high < 0)


def _least(candidates: Sequence[int], cluster_of: dict[int, int], counts: Counter[int]) -> int:
    return min(range(len(candidates)), key=lambda i: counts[cluster_of[candidates[i]]])
