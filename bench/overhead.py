"""Measure the cost of training and inference beyond the bare network, and their memory.

    .venv/bin/python -m bench.overhead DIR
    .venv/bin/python -m bench.overhead DIR --image-size 128

DIR holds images/ and masks/, as for bench.training; scans are shrunk to the 256 pixels at which a
project keeps them. A step of `training.fit` (augmentation, batches, loss, optimiser, moving
average) is compared with forward and backward of the same network on a batch in memory, and
`inference.predict` over all scans with forwards of the same batches. Both sides take turns, round
after round; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.imaging.scan_cache import WORKING_SIZE
from bench.training import read
from model.evaluation import Masks
from model.fitted import Fitted, TrainConfig, build_network
from model.inference import predict, probabilities_of
from model.preprocessing import Image, letterbox, prepare
from model.recipes import default_config
from model.training import Progress, fit, segmentation_loss

LABELS = 10
SKIPPED = 5  # first steps of a training, which allocate memory


def at_working_size(
    images: Sequence[Image], masks: Sequence[Masks]
) -> tuple[list[Image], list[Masks]]:
    """Return scans and masks as a project keeps them, the longer side 256 pixels."""
    squares = [
        (letterbox(torch.from_numpy(i)[None], WORKING_SIZE)[0], torch.from_numpy(m).float())
        for i, m in zip(images, masks, strict=True)
    ]
    return (
        [image.numpy() for image, _ in squares],
        [letterbox(mask, WORKING_SIZE).numpy() > 0.5 for _, mask in squares],
    )


def step_seconds(images: Sequence[Image], masks: Sequence[Masks], config: TrainConfig) -> float:
    """Return the mean seconds of a step of `fit`, after the first steps."""
    times: list[float] = []

    def note(_: Progress) -> None:
        times.append(time.perf_counter())

    fit(images, masks, config, on_batch=note)
    return (times[-1] - times[SKIPPED]) / (len(times) - 1 - SKIPPED)


def bare_step_seconds(config: TrainConfig) -> float:
    """Return the mean seconds of forward, loss and backward on tensors in memory."""
    network = build_network(config, torch.device("cpu")).train()
    shape = (config.batch_size, config.classes, config.image_size, config.image_size)
    scans, targets = _noise(config), torch.rand(shape).round()

    def step() -> None:
        network.zero_grad()
        loss = segmentation_loss(network(scans), targets)
        loss.backward()  # type: ignore[no-untyped-call]

    return _mean_seconds(step, config.steps)


def pool_seconds(fitted: Fitted, images: Sequence[Image]) -> float:
    """Return the seconds of `predict` over a pool."""
    started = time.perf_counter()
    for _ in predict(fitted, images):
        pass
    return time.perf_counter() - started


def bare_pool_seconds(fitted: Fitted, images: Sequence[Image], batch: int = 8) -> float:
    """Return the seconds of forwards alone over the same batches, prepared in advance."""
    size = fitted.config.image_size
    prepared = prepare(images, size)
    started = time.perf_counter()
    for scans in torch.split(prepared, batch):
        probabilities_of(fitted.network, scans)
    return time.perf_counter() - started


def _noise(config: TrainConfig) -> Tensor:
    return torch.randn(config.batch_size, 3, config.image_size, config.image_size)


def _mean_seconds(act: Callable[[], None], times: int) -> float:
    for _ in range(SKIPPED):
        act()
    started = time.perf_counter()
    for _ in range(times):
        act()
    return (time.perf_counter() - started) / times


def compare(name: str, sides: tuple[str, str], seconds: Sequence[Sequence[float]]) -> None:
    """Print the medians of two sides' seconds, by round, and of their ratio with its range."""
    taken = np.array(seconds)  # (rounds, 2)
    (first, second), ratios = np.median(taken, axis=0), taken[:, 0] / taken[:, 1]
    print(
        f"{name}: {sides[0]} {first:.3f} s, {sides[1]} {second:.3f} s, "
        f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
    )


def main() -> None:
    """Print both ratios, their range over rounds, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    images, masks = at_working_size(*read(asked.directory))
    config = replace(
        default_config("cpu", classes=1, image_size=asked.image_size), steps=asked.steps
    )
    fitted = fit(images[:LABELS], masks[:LABELS], replace(config, steps=2))
    steps, pools = [], []
    for _ in range(asked.rounds):
        ours = step_seconds(images[:LABELS], masks[:LABELS], config)
        steps.append((ours, bare_step_seconds(config)))
        pools.append((pool_seconds(fitted, images), bare_pool_seconds(fitted, images)))
    compare("step", ("ours", "bare"), steps)
    compare(f"pool of {len(images)}", ("ours", "bare"), pools)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of the process {peak / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
