"""Our network against others that get the same labels and the same time of a core.

    .venv/bin/python -m pip install --no-deps --target .bench-monai monai==1.6.1
    PYTHONPATH=.bench-monai .venv/bin/python -m bench.rivals DIR --labels 10 --draws 0 --csv FILE

Question: do the minutes that a refinement takes give better masks than the same minutes of a plain
training of a well-known network?

Ruler: labels, test and metrics of `bench.refining`; every side computes on one thread and gets the
same time of that core (`--minutes 3`: six minutes of one core, which are three of two cores). Time
of the core is counted, so other work on the machine takes nothing from a side. The sides:

- `quick`: the training of a round, without the minutes;
- `refined`: `model.refinement.refine`, whose steps follow from the pace of `quick`;
- `monai`: MONAI's AttentionUnet (16 to 256 channels);
- `smp`: segmentation-models-pytorch's Unet with a ResNet-34, random weights.

The last two train on whole scans of 128 pixels in batches of 8, with our augmentation and loss, by
AdamW with a learning rate that falls from 0.001 to 0 along a cosine over the minutes.

Refuted on a set if the refined model's mean Dice is below that of another side.

Each result is appended to FILE at once; results that are there are not computed again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.refining import Pool, measure, read
from model.augmentation import augment
from model.evaluation import METRICS, Masks
from model.fitted import TrainConfig
from model.preprocessing import Image, letterbox, prepare, restore
from model.recipes import default_config
from model.refinement import LabelledScans, refine
from model.registry import AUTO
from model.training import fit, segmentation_loss

SIZE, BATCH, RATE = 128, 8, 1e-3
CORES = 2  # minutes are those of so many cores
OURS = ("quick", "refined")
SIDES = (*OURS, "monai", "smp")
KEY = ("set", "labels", "draw", "side", "network", "minutes")
COLUMNS = (*KEY, *METRICS, "core_seconds", "steps", "recipes")


@dataclass(frozen=True)
class Case:
    """The labelled scans, the rows of the test, and the seconds of a core that a side may take."""

    pool: Pool
    labelled: LabelledScans
    test: Sequence[int]
    seconds: float
    draw: int
    config: TrainConfig  # of our quick network


def quick(case: Case) -> dict[str, Any]:
    """Train as in a round; whatever the minutes are."""
    began = time.process_time()
    model = fit(case.labelled.images, case.labelled.masks, case.config)
    spent = time.process_time() - began
    return _result(measure(case.pool, case.test, model), spent, len(model.history), "quick")


def refined(case: Case) -> dict[str, Any]:
    """Refine, with as many steps as a training of a round would take in the time."""
    began = time.process_time()
    first = fit(case.labelled.images, case.labelled.masks, case.config)
    pace = (time.process_time() - began) / len(first.history)
    began = time.process_time()
    found = refine(case.labelled, case.config, case.seconds / pace)
    spent = time.process_time() - began
    steps = sum(member.config.steps for member in found.model.members)
    return _result(
        measure(case.pool, case.test, found.model), spent, steps, "+".join(found.recipes)
    )


def monai(case: Case) -> dict[str, Any]:
    """Train MONAI's attention U-Net."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import AttentionUnet
    torch.manual_seed(case.draw)
    network = AttentionUnet(
        spatial_dims=2, in_channels=3, out_channels=len(case.labelled.masks[0]),
        channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2),
    )  # fmt: skip
    return _train(network, case)


def smp(case: Case) -> dict[str, Any]:
    """Train segmentation-models-pytorch's U-Net."""
    import segmentation_models_pytorch

    torch.manual_seed(case.draw)
    network = segmentation_models_pytorch.Unet(
        "resnet34", encoder_weights=None, classes=len(case.labelled.masks[0])
    )
    return _train(network, case)


def _train(network: Any, case: Case) -> dict[str, Any]:
    """Train a network until the time is over, and measure it."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    scans, targets = _inputs(case.labelled.images, case.labelled.masks)
    began, spent, steps = time.process_time(), 0.0, 0
    network.train()
    while spent < case.seconds:
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * spent / case.seconds)) / 2
        rows = torch.randint(len(scans), (BATCH,))
        batch, found = augment(scans[rows], targets[rows])
        loss = segmentation_loss(network(batch), found)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        spent, steps = time.process_time() - began, steps + 1
    return _result(_measure(network, case), spent, steps, "")


def _inputs(images: Sequence[Image], masks: Sequence[Masks]) -> tuple[Tensor, Tensor]:
    targets = [letterbox(torch.from_numpy(mask.astype(np.float32)), SIZE) for mask in masks]
    return prepare(images, SIZE), torch.stack(targets)


@torch.inference_mode()
def _measure(network: Any, case: Case) -> dict[str, float]:
    network.eval()
    scores: dict[str, list[float]] = {name: [] for name in METRICS}
    for row in case.test:
        image, mask = case.pool.images[row], case.pool.masks[row]
        square = torch.sigmoid(network(prepare([image], SIZE)))[0]
        found = restore(square, image.shape[:2]).numpy() > 0.5
        for name, metric in METRICS.items():
            scores[name].append(metric.of_scan(found, mask))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _result(scores: dict[str, float], spent: float, steps: int, recipes: str) -> dict[str, Any]:
    rounded = {name: round(value, 4) for name, value in scores.items()}
    return {**rounded, "core_seconds": round(spent), "steps": steps, "recipes": recipes}


RUN: dict[str, Callable[[Case], dict[str, Any]]] = {
    "quick": quick, "refined": refined, "monai": monai, "smp": smp,
}  # fmt: skip


def main() -> None:
    """Append a line for each draw, side and number of minutes that the file lacks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder, or a recipe of a pool")
    parser.add_argument("--root", type=Path, help="parent of the recipe's folders")
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 8])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--network", default=AUTO, help="ours; a name as in the option `network`")
    parser.add_argument("--csv", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pool, name, there = None, asked.source.stem, _there(asked.csv)
    network = default_config("cpu", 1, network=asked.network).network
    for draw, side in itertools.product(asked.draws, asked.sides):
        for minutes in [0.0] if side == "quick" else asked.minutes:
            of = network if side in OURS else ""
            key = (name, str(asked.labels), str(draw), side, of, f"{minutes:g}")
            if key in there:
                continue
            pool = pool or read(asked.source, asked.root)
            rows, test = pool.divide(asked.labels, draw)
            config = default_config("cpu", len(pool.masks[0]), network=network)
            case = Case(pool, pool.labelled(rows), test, minutes * 60 * CORES, draw, config)
            _append(asked.csv, dict(zip(KEY, key, strict=True)) | RUN[side](case))


def _there(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        return {tuple(row[column] for column in KEY) for row in csv.DictReader(file)}


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


if __name__ == "__main__":
    main()
