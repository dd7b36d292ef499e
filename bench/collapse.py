"""Count how often pools without clusters, and pools with clusters, are called clusterless.

    python -m bench.collapse --pools 100 --sizes 60 220 500 1000 --out bench/results/collapse.csv
    python -m bench.collapse --real DIR [DIR ...]

Each pool is drawn from its own seed, mapped by t-SNE like a project's pool, and judged by the rule
of `model.clustering` and by its rivals. The file gets a line for each pool; the same command
continues where it was stopped, and ends with the table of rates. --real embeds the images of
DIR/images with EfficientNet-Lite0 and prints the judgement on three maps.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Files
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from model import clustering, encoders, projection
from model.clustering import JUDGED, MOST_STRAYS, _best, _Split, _split, _strays

Array = NDArray[Any]
Draw = Callable[[int, np.random.Generator], Array]

UNIFORM = 20  # clusterings of uniform points, for the former rule
RIVALS = 20  # pools of a family and size that the rivals judge; the rule itself judges all pools
DIMENSIONS = (16, 64, 256, 1024)


def lift(flat: Array, rng: np.random.Generator) -> Array:
    """Return points bent smoothly into a space of many dimensions, with a little noise."""
    dim = int(rng.choice(DIMENSIONS))
    waves = rng.normal(size=(flat.shape[1], 3 * dim)) * rng.uniform(0.8, 2)
    bent = np.sin(flat @ waves + rng.uniform(0, 2 * np.pi, 3 * dim))
    bent = bent @ rng.normal(size=(3 * dim, dim)) / np.sqrt(3 * dim)
    noisy: Array = bent + rng.uniform(0, 0.05) * rng.normal(size=bent.shape)
    return noisy


def sheet(n: int, rng: np.random.Generator) -> Array:
    """Return a curved sheet."""
    return lift(rng.uniform(-1, 1, (n, 2)), rng)


def polynomial_sheet(n: int, rng: np.random.Generator) -> Array:
    """Return a sheet bent by polynomials up to the third degree."""
    x, y = rng.uniform(-1, 1, (2, n))
    bent = np.column_stack([x, y, x * x, x * y, y * y, x**3, y**3])
    lifted: Array = bent @ rng.normal(size=(7, int(rng.choice(DIMENSIONS))))
    return lifted


def cloud(n: int, rng: np.random.Generator) -> Array:
    """Return a Gaussian cloud whose deviation falls from axis to axis."""
    return np.asarray(rng.normal(size=(n, 256)) / np.arange(1, 257) ** rng.uniform(0, 1))


def heavy_cloud(n: int, rng: np.random.Generator) -> Array:
    """Return a cloud of Student's t with three degrees of freedom."""
    return np.asarray(rng.normal(size=(n, 64)) / np.sqrt(rng.chisquare(3, (n, 1)) / 3))


def cube(n: int, rng: np.random.Generator) -> Array:
    """Return a uniform cube of 3 to 20 dimensions."""
    return rng.uniform(size=(n, int(rng.integers(3, 21))))


def line(n: int, rng: np.random.Generator) -> Array:
    """Return a curved line."""
    return lift(rng.uniform(-1, 1, (n, 1)), rng)


def blobs(n: int, rng: np.random.Generator, shape: str = "round") -> Array:
    """Return 3 to 8 clusters whose centres are 8 to 14 deviations apart in 10 to 256 dimensions.

    Args:
        n: Scans.
        rng: Of all randomness.
        shape: "round" for equal sizes; "unequal", "heavy" (tails), "long" or "curved" for different
            sizes, the smallest with 5 scans or a fortieth of all.
    """
    dim, number = int(rng.choice((10, 64, 256))), int(rng.integers(3, 9))
    # In more dimensions noise makes up more of a distance: put clear clusters further apart.
    gap = (8 if dim == 10 else 10 if dim == 64 else 14) + (2 if shape == "heavy" else 0)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:number]
    rows = np.repeat(np.arange(number), _sizes(n, number, rng, shape == "round"))
    drawn: Array = gap / np.sqrt(2) * axes[rows] + _scatter(rows, dim, gap, shape, rng)
    return drawn


def _sizes(n: int, number: int, rng: np.random.Generator, equal: bool) -> Array:
    if equal:
        return n // number + (np.arange(number) < n % number)
    least = max(5, n // 40)
    sizes = least + (rng.dirichlet(np.full(number, 3.0)) * (n - least * number)).astype(int)
    sizes[0] += n - sizes.sum()
    return sizes


def _scatter(rows: Array, dim: int, gap: float, shape: str, rng: np.random.Generator) -> Array:
    noise: Array = rng.normal(size=(len(rows), dim))
    if shape == "heavy":
        noise /= np.sqrt(rng.chisquare(4, (len(rows), 1)) / 4)
    if shape in ("long", "curved"):
        directions = np.linalg.qr(rng.normal(size=(dim, dim)))[0][rng.permutation(dim)[:8]]
        along = rng.uniform(-1, 1, (len(rows), 1))
        noise += 0.6 * gap * along * directions[rows]
    if shape == "curved":
        noise += 0.3 * gap * (along**2) * directions[(rows + 1) % 8]
    return noise


CLUSTERLESS: Mapping[str, Draw] = {
    "sheet": sheet,
    "polynomial sheet": polynomial_sheet,
    "cloud": cloud,
    "heavy cloud": heavy_cloud,
    "cube": cube,
    "line": line,
}
CLUSTERED: Mapping[str, Draw] = {
    "blobs": blobs,
    "unequal blobs": lambda n, rng: blobs(n, rng, "unequal"),
    "heavy blobs": lambda n, rng: blobs(n, rng, "heavy"),
    "long blobs": lambda n, rng: blobs(n, rng, "long"),
    "curved blobs": lambda n, rng: blobs(n, rng, "curved"),
}
# The value that a rule computes, and the threshold above which it calls a pool clusterless.
RULES: Mapping[str, tuple[Callable[[Mapping[str, float]], float], float]] = {
    "strays on the map": (lambda row: row["strays"], MOST_STRAYS),
    "uniform points": (lambda row: row["uniform"] - row["silhouette"], 0),
    "silhouette 0.62": (lambda row: -row["silhouette"], -0.62),
    "strays in the embedding": (lambda row: row["embedded"], 0.16),
    "valley in the embedding": (lambda row: row["valley"], 0.075),
}


def judge(embeddings: Array, seed: int) -> dict[str, float]:
    """Return the values for the rules, for one pool, and the seconds of map and judgement."""
    started = time.perf_counter()
    points = projection.fit(embeddings.astype(np.float32), seed=seed).coordinates.astype(float)
    mapped = time.perf_counter()
    splits = [_split(points, k, seed) for k in range(2, min(JUDGED, len(points) - 1) + 1)]
    best = _best(splits)
    assert best is not None
    split = time.perf_counter()
    strays = _strays(points, best.clusters, seed)
    judged = time.perf_counter()
    found = {"k": len(best.centres), "silhouette": best.silhouette, "strays": strays}
    seconds = {
        "map_seconds": mapped - started,
        "kmeans_seconds": split - mapped,
        "strays_seconds": judged - split,
    }
    return found | _rivals(embeddings, points, best, seed) | seconds


def _rivals(embeddings: Array, points: Array, best: _Split, seed: int) -> dict[str, float]:
    """Return the values for the costly rivals; NaN for the pools that they do not judge."""
    if seed >= RIVALS:
        return dict.fromkeys(("uniform", "embedded", "valley"), math.nan)
    reduced = PCA(min(50, *embeddings.shape), random_state=seed).fit_transform(embeddings)
    return {
        "uniform": uniform(points, len(best.centres), seed),
        "embedded": _strays(reduced, best.clusters, seed),
        "valley": valley(reduced, best.clusters),
    }


def uniform(points: Array, k: int, seed: int) -> float:
    """Return the 95th percentile of the silhouettes of k clusters of uniform points."""
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(UNIFORM):
        drawn = rng.uniform(points.min(axis=0), points.max(axis=0), points.shape)
        found = KMeans(k, n_init=10, random_state=seed).fit_predict(drawn)
        scores.append(silhouette_score(drawn, found))
    return float(np.percentile(scores, 95))


def valley(points: Array, clusters: Array) -> float:
    """Return the share of two neighbouring clusters that lies half way between their centres.

    Half way means the middle half of the line between the centres. The result is the mean over
    each cluster and its nearest neighbour.
    """
    centres = clustering.centroids(points, clusters)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    shares = []
    for one, other in enumerate(apart.argmin(axis=1)):
        axis = (centres[other] - centres[one]) / apart[one, other] ** 2
        along = (points[np.isin(clusters, [one, other])] - centres[one]) @ axis
        shares.append(np.mean(np.abs(along - 0.5) < 0.25))
    return float(np.mean(shares))


def rows(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield every pool's line, computed now or read from the file, seed by seed."""
    known = _known(asked.out)
    for seed, n, family in product(range(asked.pools), asked.sizes, asked.families):
        if (family, n, seed) in known:
            yield known[family, n, seed]
            continue
        draw = {**CLUSTERLESS, **CLUSTERED}[family]
        number = [*CLUSTERLESS, *CLUSTERED].index(family)
        pool = draw(n, np.random.default_rng([asked.seed, number, n, seed]))
        row = {"family": family, "scans": n, "seed": seed} | judge(pool, seed)
        _append(asked.out, row)
        yield row


def _known(path: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        found = [{k: v if k == "family" else float(v) for k, v in row.items()}
                 for row in csv.DictReader(file)]  # fmt: skip
    return {(row["family"], int(row["scans"]), int(row["seed"])): row for row in found}  # type: ignore[misc]


def _append(path: Path, row: Mapping[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


def table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of how many pools each rule called clusterless, by family and size."""
    yield "| family | scans | " + " | ".join(RULES) + " |"
    yield "|---|---|" + "---|" * len(RULES)
    for key in sorted({(row["family"], int(row["scans"])) for row in found}):
        of = [row for row in found if (row["family"], int(row["scans"])) == key]
        yield f"| {key[0]} | {key[1]} | " + " | ".join(_rate(of, rule) for rule in RULES) + " |"


def _rate(found: Sequence[Mapping[str, Any]], rule: str) -> str:
    value, most = RULES[rule]
    judged = [value(row) for row in found if not math.isnan(value(row))]
    return f"{sum(one > most for one in judged)} of {len(judged)}"


def real(directory: Path) -> Iterator[str]:
    """Yield the judgement on a folder of images, for maps of three seeds."""
    encoder = encoders.load("efficientnet-lite0")
    paths = sorted((directory / "images").iterdir())
    parts = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    embeddings = np.concatenate([encoder.encode([_picture(p) for p in part]) for part in parts])
    for seed in range(3):
        row = judge(embeddings, seed)
        said = [name for name, (value, most) in RULES.items() if value(row) > most]
        yield (
            f"| {directory.name} | {len(paths)} | {seed} | {row['k']:.0f} | "
            f"{row['silhouette']:.2f} | {row['strays']:.3f} | {', '.join(said) or 'none'} |"
        )


def _picture(path: Path) -> Array:
    with Files.open(path) as file:
        return np.asarray(file.convert("RGB"), np.float32) / np.float32(255)


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pools", type=int, default=100, help="of each family and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[60, 220, 500, 1000])
    parser.add_argument("--families", nargs="+", default=["sheet", "blobs"])
    parser.add_argument("--seed", type=int, default=1, help="of all pools")
    parser.add_argument("--out", type=Path, default=Path("bench/results/collapse.csv"))
    parser.add_argument("--real", type=Path, nargs="+", default=[])
    return parser.parse_args()


def main() -> None:
    """Print the table of rates, or the table of real images."""
    asked = arguments()
    if asked.real:
        print("| set | scans | seed | k | silhouette | strays | clusterless for |")
        print("|---|---|---|---|---|---|---|")
        for directory in asked.real:
            print("\n".join(real(directory)), flush=True)
        return
    print("\n".join(table(list(rows(asked)))))


if __name__ == "__main__":
    main()
