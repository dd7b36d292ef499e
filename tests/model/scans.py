"""Scans for tests of the network: noise, and discs that a short training learns."""

from __future__ import annotations

import numpy as np
import torch

from model.evaluation import Masks
from model.fitted import Fitted, TrainConfig
from model.preprocessing import Image

CONFIG = TrainConfig(
    "attention-unet/tu-test_resnet",
    32,
    classes=1,
    steps=3,
    batch_size=4,
    learning_rate=6e-3,
    seed=3,
)


def noise(*shape: int, seed: int = 0) -> Image:
    """A scan of random values."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def disc(height: int, width: int, seed: int) -> tuple[Image, Masks]:
    """A noisy scan with one bright disc, and the disc's mask (1, h, w)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    centre = rng.uniform(0.35, 0.65, size=2) * (height, width)
    inside = np.hypot(rows - centre[0], columns - centre[1]) < 0.3 * min(height, width)
    image = 0.3 + 0.4 * inside + 0.1 * rng.random((height, width))
    return image.astype(np.float32), inside[None]


def discs(number: int, height: int = 32, width: int = 32) -> tuple[list[Image], list[Masks]]:
    images, masks = zip(*(disc(height, width, seed) for seed in range(number)), strict=True)
    return list(images), list(masks)


def same(first: Fitted, second: Fitted) -> bool:
    """Say whether two networks hold the same numbers."""
    pairs = zip(
        first.network.state_dict().values(), second.network.state_dict().values(), strict=True
    )
    return all(torch.equal(one, other) for one, other in pairs)
