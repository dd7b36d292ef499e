"""Measure the network of a round, and what refinement adds in some minutes.

    python -m bench.refining DIR --labels 10 --draws 0 1 2 --minutes 0 1 3 8

DIR holds scans or volumes, as for `simulate` (docs/experiments.md). Of volumes, `--labels` counts
patients; every fifth slice of each is labelled, and every second slice of twelve other patients is
the test. Otherwise `--labels` counts scans, and 60 others are the test. A recipe of a pool
(bench/pools/*.toml, its folders beside DIR's) may stand in place of DIR; its held-out scans are the
test.

0 minutes are the training of a round. The pace of that training turns minutes into steps, as in
production, so a result follows from the number of steps and of cores, and not from what else runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from backend.experiments import datasets, draws, pools
from backend.experiments.draws import Draws
from backend.experiments.scans import Dataset
from backend.imaging.scan_cache import WORKING_SIZE
from model.ensemble import Ensemble
from model.evaluation import MAIN, METRICS, Masks
from model.fitted import Fitted, TrainConfig
from model.inference import predict
from model.preprocessing import Image
from model.recipes import default_config
from model.refinement import LabelledScans, refine
from model.registry import AUTO
from model.training import fit

EVERY, TEST_PATIENTS, TEST_SCANS = 5, 12, 60
MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class Pool:
    """All scans of a folder at working size."""

    images: list[Image]
    masks: list[Masks]
    groups: list[int]
    volumes: bool
    draws: Draws | None = None  # of a recipe

    def divide(self, labels: int, draw: int) -> tuple[list[int], list[int]]:
        """Return the rows that are labelled and those of the test."""
        chance = np.random.default_rng(draw)
        if self.draws is not None:
            rows, held_out = self.draws.of(draw)
            return chance.permutation(rows).tolist()[:labels], list(held_out)
        if not self.volumes:
            order = chance.permutation(len(self.images)).tolist()
            return order[:labels], order[labels:][-TEST_SCANS:]
        patients = chance.permutation(np.unique(self.groups)).tolist()
        chosen = [row for patient in patients[:labels] for row in self.of(patient)[2::EVERY]]
        others = [row for patient in patients[-TEST_PATIENTS:] for row in self.of(patient)]
        return chosen, sorted(others)[::2]

    def of(self, group: int) -> list[int]:
        """Return the rows of a group."""
        return [row for row, other in enumerate(self.groups) if other == group]

    def labelled(self, rows: Sequence[int]) -> LabelledScans:
        """Return scans as a training takes them."""
        return LabelledScans(
            [self.images[row] for row in rows],
            [self.masks[row] for row in rows],
            [self.groups[row] for row in rows],
        )


def read(source: Path, root: Path | None = None) -> Pool:
    """Return the scans of a folder, or all that a recipe may draw from.

    Slices of volumes are grouped by patient.

    Args:
        source: A folder or a recipe.
        root: The parent of the recipe's folders.
    """
    if source.suffix == ".toml":
        return _read_recipe(source, root or source.parent)
    patients = "" if (source / "labels").is_dir() else None
    found = datasets.find(source, max_pixels=MOST_PIXELS, patients=patients)
    images, masks, _ = _load(found)
    keys = [found.patients.get(scan.name, scan.name) for scan in found.scans]
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    groups = [numbers[key] for key in keys]
    return Pool(images, masks, groups, volumes=patients is not None)


def _read_recipe(path: Path, root: Path) -> Pool:
    recipe = pools.read(path)
    mixture = pools.mix(recipe, root, max_pixels=MOST_PIXELS)
    images, masks, patients = _load(mixture.dataset)
    return Pool(images, masks, patients, False, draws.plan(recipe, mixture, patients, split_seed=0))


def _load(dataset: Dataset) -> tuple[list[Image], list[Masks], list[int]]:
    """Return images, masks and patients of all scans at working size."""
    with tempfile.TemporaryDirectory() as kept:
        scans = datasets.keep(dataset, Path(kept), longest=WORKING_SIZE).scans
        images, masks = zip(*(scan.load() for scan in scans), strict=True)
    return list(images), list(masks), [scan.patient for scan in scans]


def measure(pool: Pool, rows: Sequence[int], model: Fitted | Ensemble) -> dict[str, float]:
    """Return the mean score of these rows by metric; distances in pixels of working size."""
    found = [p > 0.5 for p in predict(model, (pool.images[row] for row in rows))]
    pairs = [(mask, pool.masks[row]) for mask, row in zip(found, rows, strict=True)]
    return {
        name: float(np.mean([metric.of_scan(*pair) for pair in pairs]))
        for name, metric in METRICS.items()
    }


def main() -> None:
    """Print a line for each draw and number of minutes."""
    asked = _asked()
    torch.set_num_threads(asked.threads)
    pool = read(asked.directory)
    config = default_config("cpu", pool.masks[0].shape[0], network=asked.network)
    config = replace(config, steps=asked.steps or config.steps)
    print(f"{asked.directory.name}, {asked.labels} labels, {torch.get_num_threads()} threads")
    print("draw,minutes,dice,hd95,seconds,recipe,networks,compared", flush=True)
    for draw in asked.draws:
        rows, test = pool.divide(asked.labels, draw)
        labelled, pace = pool.labelled(rows), asked.pace
        for minutes in asked.minutes:
            began = time.perf_counter()
            if minutes:
                model, trained = _refined(labelled, config, minutes * 60 / (pace or 0.1))
            else:
                fitted = fit(labelled.images, labelled.masks, config)
                pace = pace or (time.perf_counter() - began) / len(fitted.history)
                model, trained = fitted, "quick,1,"
            seconds = time.perf_counter() - began
            scores = measure(pool, test, model)
            others = ",".join(f"{scores[name]:.2f}" for name in METRICS if name != MAIN.name)
            line = f"{draw},{minutes:g},{scores[MAIN.name]:.4f},{others},{seconds:.0f},{trained}"
            print(line, flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, nargs="+", default=[0, 1, 3, 8])
    parser.add_argument("--network", default=AUTO, help="a name as in the option `network`")
    parser.add_argument("--steps", type=int, help="of a round, where regions are not small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--pace", type=float, help="seconds of a step; measured if not given")
    return parser.parse_args()


def _refined(
    labelled: LabelledScans, config: TrainConfig, budget: float
) -> tuple[Fitted | Ensemble, str]:
    """Return a refined model, and its recipes, number of networks and comparison for a line."""
    refined = refine(labelled, config, budget)
    recipe, compared = "+".join(refined.recipes), refined.compared.items()
    scores = " ".join(f"{name}={score:.3f}" for name, score in compared)
    return refined.model, f"{recipe},{len(refined.model.members)},{scores}"


if __name__ == "__main__":
    main()
