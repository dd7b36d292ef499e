"""Measure the quality of a network trained on a few labels, and the cost of its training.

    python -m bench.training DIR --labels 10 --seeds 0 1 --steps 100

DIR holds images/ and masks/ with the same file names, masks above 127 being foreground. For each
seed (weights and batches) and draw (which scans are labelled) a network is trained; all other
scans are the test. Wall time is an upper bound if other work runs on the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Files

from model.evaluation import MAIN, METRICS, OTHERS, Masks
from model.fitted import Fitted, TrainConfig
from model.inference import predict
from model.preprocessing import Image
from model.recipes import default_config
from model.training import fit


@dataclass(frozen=True)
class Result:
    """A training, measured on all scans that it did not train on."""

    scores: dict[str, list[float]]  # by metric, a score per scan
    wall: float
    cpu: float


def read(directory: Path) -> tuple[list[Image], list[Masks]]:
    """Return grey images in [0, 1] and their masks (1, h, w)."""
    images: list[Image] = []
    masks: list[Masks] = []
    for path in sorted((directory / "images").iterdir()):
        images.append(_pixels(path).astype(np.float32) / np.float32(255))
        masks.append(_pixels(directory / "masks" / path.name)[None] > 127)
    return images, masks


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Files.open(path) as file:
        return np.asarray(file.convert("L"))


def measure(
    images: list[Image], masks: list[Masks], config: TrainConfig, chosen: list[int], stop_at: int
) -> Result:
    """Train on the chosen rows and test on the others."""
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = fit(
        [images[row] for row in chosen],
        [masks[row] for row in chosen],
        config,
        stop=_after(stop_at),
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Result(test(fitted, images, masks, set(range(len(images))) - set(chosen)), wall, cpu)


def _after(batches: int) -> Callable[[], bool]:
    asked = iter(range(batches))
    return lambda: next(asked, None) is None


def test(
    fitted: Fitted, images: list[Image], masks: list[Masks], rows: set[int]
) -> dict[str, list[float]]:
    """Return the scores of every row by metric, distances in pixels."""
    order = sorted(rows)
    scores: dict[str, list[float]] = {name: [] for name in METRICS}
    for row, found in zip(order, predict(fitted, (images[r] for r in order)), strict=True):
        for name, metric in METRICS.items():
            scores[name].append(metric.of_scan(found > 0.5, masks[row]))
    return scores


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--network")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--stop-at", type=int, default=1_000_000, help="cut training short")
    return parser.parse_args()


def configured(asked: argparse.Namespace) -> TrainConfig:
    """Return the default settings, changed by the command line."""
    changes = {
        "network": asked.network,
        "image_size": asked.image_size,
        "steps": asked.steps,
        "batch_size": asked.batch_size,
        "learning_rate": asked.learning_rate,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(default_config("cpu", classes=1), **given)


def main() -> None:
    """Print a row for each training, and their mean."""
    asked = arguments()
    images, masks = read(asked.directory)
    config = configured(asked)
    print(config)
    others = [f"{metric.title} mean" for metric in OTHERS]
    columns = ["draw", "seed", f"{MAIN.title} mean", f"{MAIN.title} worst", *others]
    print("|", " | ".join([*columns, "wall s", "cpu s"]), "|")
    print("|---" * (len(columns) + 2) + "|")
    means = []
    for draw in asked.draws:
        order = np.random.default_rng(draw).permutation(len(images)).tolist()
        for seed in asked.seeds:
            seeded = replace(config, seed=seed)
            result = measure(images, masks, seeded, order[: asked.labels], asked.stop_at)
            main = result.scores[MAIN.name]
            means.append(np.mean(main))
            of_others = "".join(f"| {np.mean(result.scores[one.name]):.2f} " for one in OTHERS)
            print(
                f"| {draw} | {seed} | {means[-1]:.4f} | {MAIN.worst(main):.3f} {of_others}"
                f"| {result.wall:.1f} | {result.cpu:.1f} |",
                flush=True,
            )
    print(f"{MAIN.title} {np.mean(means):.4f} over {len(means)} trainings")


if __name__ == "__main__":
    main()
