"""Time until Dice 0.93 from ten labels, compared with MONAI's AttentionUnet in the same run.

    .venv/bin/python -m pip install --no-deps --target .bench-monai monai==1.6.1
    PYTHONPATH=.bench-monai .venv/bin/python -m bench.time_to_dice DIR

DIR holds images/ and masks/, as for bench.training. Ten random scans are labels and 40 others the
test, the same for both. Our schedule depends on the number of steps, so our network is trained
again with more steps until it reaches the goal; the time is that of the training that reached it.
MONAI's network (16..256 channels, 128 pixels, AdamW, binary cross-entropy plus Dice, light affine
and intensity augmentation, batches of 8) is measured every ten steps. The time for measuring does
not count on either side.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.training import read, test
from model.augmentation import augment
from model.evaluation import Masks, scan_dice
from model.preprocessing import Image, letterbox, prepare, restore
from model.recipes import default_config
from model.training import fit, segmentation_loss

GOAL = 0.93
LABELS, HELD_OUT = 10, 40
STEPS = (15, 20, 30, 40, 55, 75, 100, 130, 200)  # and production's number
MONAI_STEPS, MONAI_SIZE, BATCH, EVERY = 150, 128, 8, 10


@dataclass(frozen=True)
class Outcome:
    """Seconds until the goal (None: never), and Dice and seconds at the end."""

    reached: float | None
    dice: float
    seconds: float


@dataclass(frozen=True)
class Task:
    """Scans and masks: rows to train on and rows to measure on."""

    images: list[Image]
    masks: list[Masks]
    labels: list[int]
    held: list[int]


def ours(task: Task, seed: int) -> Outcome:
    """Train with more and more steps; the last training has production's number of steps."""
    config = replace(default_config("cpu", classes=1), seed=seed)
    reached = None
    for steps in (*STEPS, config.steps):
        started = time.perf_counter()
        fitted = fit(
            [task.images[row] for row in task.labels],
            [task.masks[row] for row in task.labels],
            replace(config, steps=steps),
        )
        seconds = time.perf_counter() - started
        scores = test(fitted, task.images, task.masks, set(task.held))
        score = float(np.mean(scores["dice"]))
        if reached is None and score >= GOAL:
            reached = seconds
    return Outcome(reached, score, seconds)


def monai(task: Task, seed: int) -> Outcome:
    """Train MONAI's network, and measure it every ten steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import AttentionUnet
    torch.manual_seed(seed)
    network: Any = AttentionUnet(
        spatial_dims=2, in_channels=1, out_channels=1,
        channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    batches = _batches(task)
    reached, spent = None, 0.0
    for step in range(1, MONAI_STEPS + 1):
        started = time.perf_counter()
        network.train()
        scans, targets = next(batches)
        loss = segmentation_loss(network(scans), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        spent += time.perf_counter() - started
        if step % EVERY == 0:
            score = _score(network, task)
            if reached is None and score >= GOAL:
                reached = spent
    return Outcome(reached, score, spent)


def _batches(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    scans = prepare([task.images[row] for row in task.labels], MONAI_SIZE)
    masks = [torch.from_numpy(task.masks[row].astype(np.float32)) for row in task.labels]
    targets = torch.stack([letterbox(mask, MONAI_SIZE) for mask in masks])
    while True:
        rows = torch.randint(len(scans), (BATCH,))
        batch, found = augment(scans[rows, :1], targets[rows])
        yield batch[:, :1], found


@torch.inference_mode()
def _score(network: Any, task: Task) -> float:
    network.eval()
    scores = []
    for row in task.held:
        image, mask = task.images[row], task.masks[row]
        square = torch.sigmoid(network(prepare([image], MONAI_SIZE)[:, :1]))[0]
        scores.append(scan_dice(restore(square, image.shape[:2]).numpy() > 0.5, mask))
    return float(np.mean(scores))


def main() -> None:
    """Print a row for each side and draw, and the ratio of the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    images, masks = read(asked.directory)
    sides: dict[str, Callable[[Task, int], Outcome]] = {"ours": ours, "MONAI": monai}
    print(f"| draw | | seconds to Dice {GOAL} | Dice at the end | seconds in all |")
    print("|---|---|---|---|---|")
    for draw in asked.draws:
        order = np.random.default_rng(draw).permutation(len(images)).tolist()
        task = Task(images, masks, order[:LABELS], order[LABELS : LABELS + HELD_OUT])
        found = {name: side(task, draw) for name, side in sides.items()}
        for name, one in found.items():
            reached = "never" if one.reached is None else f"{one.reached:.1f}"
            print(
                f"| {draw} | {name} | {reached} | {one.dice:.4f} | {one.seconds:.1f} |", flush=True
            )
        times = [one.reached for one in found.values()]
        if None not in times:
            print(f"MONAI / ours: {times[1] / times[0]:.1f}", flush=True)  # type: ignore[operator]


if __name__ == "__main__":
    main()
