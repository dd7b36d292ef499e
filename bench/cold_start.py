"""Measure the time and memory of a cold start, from embeddings to the ordered pool.

    python -m bench.cold_start --sizes 1000 10000 100000 --naive 1000 10000

Embeddings are drawn around 20 centres in 2,048 dimensions, written to a file and memory-mapped.
Each size runs in its own process; memory is the peak of its anonymous memory, read every 50 ms. The
naive baseline is a textbook version: scikit-learn's t-SNE, silhouettes and medoids over all pairs,
the same k-means. The growth exponent is the slope of log seconds over log scans.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from bench.memory import Peak
from model import cold_start
from model.clustering import most_clusters

Floats = NDArray[np.float32]

DIM = 2_048
CENTRES = 20
PART = 10_000


def write_embeddings(path: Path, n: int) -> None:
    """Write n embeddings, a part at a time."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, DIM)).astype(np.float32)
    rows = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        path, "w+", np.float32, (n, DIM)
    )
    for start in range(0, n, PART):
        part = rows[start : start + PART]
        chosen = centres[rng.integers(0, CENTRES, len(part))]
        part[:] = chosen + rng.normal(size=part.shape).astype(np.float32)
    rows.flush()


def ours(embeddings: Floats, budget: int, options: argparse.Namespace) -> list[int]:
    """Return the choice of the shipped cold start."""
    start = cold_start.select(
        embeddings, budget, strategy=options.strategy, projection=options.projection
    )
    return [int(row) for row in start.order[:budget]]


def naive(embeddings: Floats, budget: int, options: argparse.Namespace) -> list[int]:
    """Return medoids and farthest points, computed over all pairs."""
    points = TSNE(init="pca", random_state=0).fit_transform(np.asarray(embeddings))
    most = min(budget, most_clusters(len(points)))
    scans = [KMeans(k, n_init=10, random_state=0).fit_predict(points) for k in range(2, most + 1)]
    labels = max(scans, key=lambda found: silhouette_score(points, found))
    distances = cdist(points, points)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    chosen = [int(m[distances[np.ix_(m, m)].sum(axis=1).argmin()]) for m in members]
    while len(chosen) < budget:
        chosen.append(int(distances[:, chosen].min(axis=1).argmax()))
    return chosen


def measure(asked: argparse.Namespace, what: str, n: int) -> dict[str, float]:
    """Run one cold start in its own process and return its seconds and gigabytes."""
    command = [sys.executable, "-m", "bench.cold_start", "--child", what, "--sizes", str(n),
               "--folder", str(asked.folder), "--budget", str(asked.budget),
               "--strategy", asked.strategy, "--projection", asked.projection]  # fmt: skip
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def child(asked: argparse.Namespace) -> None:
    """Run one cold start in this process."""
    embeddings = np.load(asked.folder / f"{asked.sizes[0]}.npy", mmap_mode="r")
    run = {"ours": ours, "naive": naive}[asked.child]
    with Peak() as peak:
        started = time.perf_counter()
        chosen = run(embeddings, asked.budget, asked)
        seconds = time.perf_counter() - started
    assert len(set(chosen)) == asked.budget
    print(json.dumps({"seconds": seconds, "gigabytes": peak.bytes / 1e9}))


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--naive", type=int, nargs="*", default=[1_000])
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--strategy", default="medoids")
    parser.add_argument("--projection", default="tsne")
    parser.add_argument("--folder", type=Path, help="for the embeddings, 8 GB a million")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print a row for each size, and the growth exponent."""
    asked = arguments()
    if asked.child:
        child(asked)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        asked.folder = Path(name)
        print("| scans | what | seconds | peak GB | naive / ours |")
        print("|---|---|---|---|---|")
        times = [report(asked, n) for n in asked.sizes]
    if len(times) > 1:
        slope = np.polyfit(np.log(asked.sizes), np.log(times), 1)[0]
        print(f"growth exponent {slope:.2f}")


def report(asked: argparse.Namespace, n: int) -> float:
    """Print the rows of one size and return our seconds."""
    path = asked.folder / f"{n}.npy"
    write_embeddings(path, n)
    found = measure(asked, "ours", n)
    baseline = measure(asked, "naive", n) if n in asked.naive else None
    path.unlink()
    ratio = f"{baseline['seconds'] / found['seconds']:.1f}" if baseline else ""
    print(f"| {n:,} | ours | {found['seconds']:.1f} | {found['gigabytes']:.2f} | {ratio} |")
    if baseline:
        print(f"| {n:,} | naive | {baseline['seconds']:.1f} | {baseline['gigabytes']:.2f} | |")
    sys.stdout.flush()
    return found["seconds"]


if __name__ == "__main__":
    main()
