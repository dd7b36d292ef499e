"""How a model does on the groups of a mixed pool, and how a choice covers them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.evaluation import METRICS, Metric

Array = npt.NDArray[Any]

DECILE = 0.1


def summaries(scores: Mapping[str, Array], groups: Sequence[str]) -> dict[str, Any]:
    """Return what a mean over all scans hides, for the record of a run.

    Args:
        scores: Of each held-out scan by metric, shape (h,).
        groups: Of each held-out scan.

    Returns:
        For each metric M: `M_macro`, the mean of the groups' means; `M_worst_group`, the worst of
        them; `M_worst_decile`, the mean of the worst tenth of the scans. And `groups`: by name,
        the number of scans and the mean of each metric.
    """
    names = sorted(set(groups))
    rows = {name: np.flatnonzero(np.equal(groups, name)) for name in names}
    means = {
        name: {metric: float(of[rows[name]].mean()) for metric, of in scores.items()}
        for name in names
    }
    told: dict[str, Any] = {"groups": {n: {"scans": len(rows[n]), **means[n]} for n in names}}
    for name, of in scores.items():
        by_group = [means[group][name] for group in names]
        told[f"{name}_macro"] = float(np.mean(by_group))
        told[f"{name}_worst_group"] = METRICS[name].worst(by_group)
        told[f"{name}_worst_decile"] = worst_decile(METRICS[name], of)
    return told


def worst_decile(metric: Metric, scores: Array) -> float:
    """Return the mean of the worst tenth of some scores, rounded up to whole scans."""
    ordered = np.sort(scores)
    number = math.ceil(DECILE * len(ordered))
    worst = ordered[:number] if metric.higher_is_better else ordered[-number:]
    return float(worst.mean())


def recall(chosen: Sequence[str], pool: Sequence[str]) -> float:
    """Return the share of the pool's groups from which a scan was chosen.

    Args:
        chosen: Groups of the chosen scans; "" is no group.
        pool: Groups of all scans of the pool.
    """
    there = set(pool) - {""}
    return len(there & set(chosen)) / len(there)
