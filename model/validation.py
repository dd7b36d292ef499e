"""What is held out to judge a model, and when a new model is refused.

Nothing here may leak: the unit that is held out is the group (a patient, a volume, or scans with
equal pixels), and a scan that ever served validation never trains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import bootstrap

UNKNOWN, TRAINING, VALIDATION = -1, 0, 1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def group(keys: Sequence[str], pixels: Sequence[str]) -> Ints:
    """Return one group number a scan, shape (n,): scans that share a key or their pixels.

    An empty key or digest says nothing and joins nobody. Joining is transitive: two patients with
    one identical scan become one group.
    """
    n = len(keys)
    names = [("key", key) for key in keys] + [("pixels", digest) for digest in pixels]
    nodes = {name: n + i for i, name in enumerate(dict.fromkeys(names)) if name[1]}
    edges = [(i % n, nodes[name]) for i, name in enumerate(names) if name in nodes]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    size = n + len(names)
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    _, components = connected_components(graph, directed=False)
    numbers: Ints = np.unique(components[:n], return_inverse=True)[1].astype(np.int64)
    return numbers


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
        sides: What is stored: UNKNOWN for a scan that was never labelled before.
        clusters: Cluster of each scan; the least represented one joins validation first.
        always: Scans that belong to validation whatever the rule says (ground truth).
        minimum: Below this many labelled groups nothing new is held out.
        share: Largest part of the groups that the rule may hold out.

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


def refuses(live: Floats, new: Floats, *, seed: int = 0) -> bool:
    """Return whether the new model is worse than the live one beyond doubt.

    Args:
        live: Dice of the live model on each validation scan, shape (n,).
        new: Dice of the new model on the same scans.
        seed: Of the bootstrap.

    True when the paired bootstrap's 90 % interval of the mean difference lies below 0. With fewer
    than two scans there is no interval, and nothing is refused.
    """
    difference = np.asarray(new, float) - np.asarray(live, float)
    if difference.size < 2:
        return False
    if np.ptp(difference) == 0:
        return bool(difference[0] < 0)
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
