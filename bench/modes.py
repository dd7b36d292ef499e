"""Measure which modes of a drawn pool a cold start finds: python -m bench.modes

A pool has 500 scans in 32 dimensions: modes of 78.4, 12, 5 and 2.6 % of it, and 2 % outliers. The
centres of modes are drawn from a normal distribution of deviation `--apart`, the outliers from one
three times as wide. A mode is a normal cloud along axes of its own, whose deviations fall like
1, 1/2, 1/3 and so on, times a size that differs between modes (log-normal, 0.3). Every rule chooses
5 and 10 scans of each of `--pools` pools (seeds 0, 1, ...) in the embedding itself; `medoids` also
on the t-SNE map, where the paper uses it. `farthest` is farthest-point traversal from the medoid of
the pool. No network is trained.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from model import clustering, cold_start, projection

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SIZES = (392, 60, 25, 13)  # scans of each mode
OUTLIERS = 10
DIM = 32
BUDGETS = (5, 10)


def draw(seed: int, apart: float) -> tuple[Floats, Ints]:
    """Return a pool: points (n, DIM), and the mode of each scan (n,), -1 for an outlier."""
    rng = np.random.default_rng(seed)
    clouds = [_cloud(rng, size) + apart * rng.normal(size=DIM) for size in SIZES]
    points = np.concatenate([*clouds, 3 * apart * rng.normal(size=(OUTLIERS, DIM))])
    modes = np.repeat([*range(len(SIZES)), -1], [*SIZES, OUTLIERS])
    order = rng.permutation(len(points))
    return points[order], modes[order]


def _cloud(rng: np.random.Generator, size: int) -> Floats:
    axes = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    deviations = np.exp(0.3 * rng.normal()) / np.arange(1, DIM + 1)
    scattered: Floats = (rng.normal(size=(size, DIM)) * deviations) @ axes
    return scattered


def farthest(points: Floats, budget: int) -> list[int]:
    """Return the medoid, then the scan farthest from those chosen, again and again."""
    distances = cdist(points, points)
    chosen = [int(distances.sum(axis=1).argmin())]
    while len(chosen) < budget:
        chosen.append(int(distances[:, chosen].min(axis=1).argmax()))
    return chosen


def choices(points: Floats, drawn: Floats, budget: int, seed: int) -> dict[str, list[int]]:
    """Return the rows that each rule chooses in the embedding, or on its t-SNE map, `drawn`."""
    found = {"farthest": farthest(points, budget)}
    clusters = clustering.cluster(points, budget, seed=seed)
    for rule in cold_start.STRATEGIES:
        found[rule] = _choice(points, budget, seed, rule, clusters)
    found["medoids on t-SNE"] = _choice(drawn, budget, seed, "medoids", None)
    return found


def _choice(
    points: Floats, budget: int, seed: int, rule: str, clusters: clustering.Clustering | None
) -> list[int]:
    start = cold_start.select(
        points, budget, strategy=rule, coordinates=points, clustering=clusters, seed=seed
    )
    chosen: list[int] = start.order[:budget].tolist()
    return chosen


def main() -> None:
    """Print how often each rule finds the small modes, and how many outliers it chooses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pools", type=int, default=40)
    parser.add_argument("--apart", type=float, default=0.2, help="deviation of the centres")
    asked = parser.parse_args()
    scores: dict[str, list[list[float]]] = {}
    for seed in range(asked.pools):
        points, modes = draw(seed, asked.apart)
        drawn = projection.fit(points, seed=seed).coordinates.astype(np.float64)
        few, many = (choices(points, drawn, budget, seed) for budget in BUDGETS)
        for rule, rows in many.items():
            early, late = modes[few[rule]], modes[rows]
            found = [2 in early, 2 in late, 3 in late, np.sum(late == -1)]
            scores.setdefault(rule, []).append(list(map(float, found)))
    print("| rule | 5 % mode in 5 | 5 % mode in 10 | 3 % mode in 10 | outliers in 10 |")
    print("|---|---|---|---|---|")
    for rule, found_in_each in scores.items():
        means = np.mean(found_in_each, axis=0)
        print(f"| `{rule}` |", " | ".join(f"{mean:.2f}" for mean in means), "|")


if __name__ == "__main__":
    main()
