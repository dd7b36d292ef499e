"""From a few labelled scans to a trained network: one plain loop, repeatable from its seed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision import tv_tensors
from torchvision.transforms import v2

from model.attention_unet import STRIDE, AttentionUnet
from model.inference import CHANNELS, Image, letterbox, predict, prepare
from model.metrics import dice

Masks = NDArray[np.bool_]
Labelled = tuple[Sequence[Image], Sequence[Masks]]


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a training besides its scans."""

    encoder_name: str
    image_size: int  # side of the square the network sees, a multiple of its stride
    classes: int
    steps: int
    batch_size: int
    learning_rate: float  # at the peak of the schedule
    seed: int = 0
    device: str = "cpu"
    init: str = "scratch"

    def __post_init__(self) -> None:
        if self.init != "scratch":
            raise ValueError(f"init {self.init!r}: only 'scratch' can be trained from so far")
        if self.image_size < 1 or self.image_size % STRIDE:
            raise ValueError(
                f"image_size {self.image_size}: expected a multiple of {STRIDE}, like 96"
            )
        if self.classes < 1 or self.steps < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"classes {self.classes}, steps {self.steps}, learning_rate {self.learning_rate}: "
                "expected at least 1 class and 1 step, and a rate above 0"
            )
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size {self.batch_size}: expected at least 2, because batch normalisation "
                "compares the scans of a batch"
            )


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a batch."""

    step: int  # from 1
    steps: int
    loss: float


@dataclass(frozen=True)
class Fitted:
    """A trained network and how it came to be."""

    network: nn.Module
    config: TrainConfig
    history: tuple[float, ...]  # the loss of every step made; shorter than steps when stopped
    validation: tuple[tuple[float, ...], ...]  # Dice of each held-out scan and class

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, which appears at `path` only when whole."""
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        story = {
            "config": asdict(self.config),
            "history": self.history,
            "validation": self.validation,
        }
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with unfinished.open("wb") as file:
            file.write(save(weights, metadata={"fitted": json.dumps(story)}))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    @staticmethod
    def load(path: Path, *, device: str = "cpu") -> Fitted:
        """Return what `save` wrote, with the network on `device`, wherever it was trained.

        Raises:
            ValueError: If the file is damaged or was not written by `save`.
        """
        try:
            with safe_open(path, framework="pt") as file:
                story = json.loads(file.metadata()["fitted"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no trained network, or is damaged: {error}") from error
        config = TrainConfig(**story["config"])
        network = _network(config, torch.device(device))
        network.load_state_dict(weights)
        validation = tuple(tuple(scores) for scores in story["validation"])
        return Fitted(network.eval(), config, tuple(story["history"]), validation)


def resolve_device(name: str) -> str:
    """Return the device to compute on: "auto" is the best one present, others are checked.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return next((device for device, there in present.items() if there), "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch's ways of saying no
        raise ValueError(f"device {name!r} is not present here; use 'auto' or 'cpu'") from error
    return name


def default_config(
    device: str, classes: int, *, seed: int = 0, image_size: int | None = None
) -> TrainConfig:
    """Return settings that suit the device: half a minute on two CPU cores, more on a GPU."""
    small = device == "cpu"
    # The tiny ResNet gave the best Dice for its time of three encoders trained (bench/training.py).
    return TrainConfig(
        encoder_name="tu-test_resnet" if small else "resnet34",
        image_size=image_size or (96 if small else 256),
        classes=classes,
        steps=130 if small else 600,
        batch_size=8 if small else 16,
        learning_rate=6e-3 if small else 1e-3,
        seed=seed,
        device=device,
    )


def fit(
    images: Sequence[Image],
    masks: Sequence[Masks],
    config: TrainConfig,
    *,
    validation: Labelled | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Fitted:
    """Return a network trained from scratch, on a CPU the same one for the same seed.

    Args:
        images: Scans of shape (h, w) or (h, w, 3), values in [0, 1], each of any size.
        masks: One (classes, h, w) bool array for each scan; empty masks are data.
        validation: Held-out scans and masks, only measured when training has ended.
        on_epoch: Told after every batch how far training is.
        stop: Asked before every batch; once true, the network as it is gets returned.
    Raises:
        ValueError: If there is no scan, or scans, masks and config do not fit together.
    """
    for labelled in [(images, masks)] if validation is None else [(images, masks), validation]:
        _check(*labelled, config)
    device = torch.device(config.device)
    with _randomness(config.seed):
        network = _network(config, device)
        average = _moving_average(network)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        batches = _batches(_squares(images, masks, config.image_size), config.batch_size)
        history: list[float] = []
        for step in range(1, config.steps + 1):
            if stop is not None and stop():
                break
            scans, targets = (part.to(device) for part in next(batches))
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                logits = network(scans)
            loss = segmentation_loss(logits.float(), targets)
            _set_rate(optimizer, config.learning_rate * _warm_up_and_fade(step / config.steps))
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            average.update_parameters(network)
            history.append(loss.item())
            if on_epoch is not None:
                on_epoch(Progress(step, config.steps, history[-1]))
    fitted = Fitted(average.module.eval(), config, tuple(history), validation=())
    return fitted if validation is None else replace(fitted, validation=_dice(fitted, *validation))


def segmentation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy plus Dice loss, a scalar.

    Dice alone has next to no gradient where a class is absent; cross-entropy teaches emptiness.
    Padding counts as background: beyond the edge of a scan there is nothing to draw.

    Args:
        logits: Shape (n, c, h, w).
        targets: Share of each pixel that belongs to the class, shape (n, c, h, w).
    """
    probabilities = torch.sigmoid(logits)
    common = (probabilities * targets).sum(dim=(0, 2, 3))  # (c,)
    total = (probabilities + targets).sum(dim=(0, 2, 3))  # (c,)
    dice_loss = 1 - ((2 * common + 1) / (total + 1)).mean()
    return F.binary_cross_entropy_with_logits(logits, targets) + dice_loss


def _network(config: TrainConfig, device: torch.device) -> AttentionUnet:
    network = AttentionUnet(config.encoder_name, CHANNELS, config.classes)
    # This layout of memory computes a fifth faster on a CPU.
    return network.to(memory_format=torch.channels_last).to(device)


def _moving_average(network: nn.Module) -> AveragedModel:
    """Return what follows the network: less noisy, and usable when training is cut short."""
    follow = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _squares(
    images: Sequence[Image], masks: Sequence[Masks], size: int
) -> list[tuple[Tensor, Tensor]]:
    """Return each scan (3, size, size) with the share of each pixel a class has (c, size, size)."""
    scans = [prepare(image, size) for image in images]
    targets = [
        letterbox(torch.from_numpy(mask.astype(np.float32, order="C")), size) for mask in masks
    ]
    return list(zip(scans, targets, strict=True))


def _batches(squares: list[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches without end, every scan once before any comes again."""
    rows: list[int] = []
    while True:
        while len(rows) < size:
            rows += torch.randperm(len(squares)).tolist()
        pairs = [_augment(*squares[row]) for row in rows[:size]]
        del rows[:size]
        scans, targets = zip(*pairs, strict=True)
        yield torch.stack(scans), torch.stack(targets)


def _augment(scan: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return a scan as another patient, position or machine might have given it; no mirroring,
    because left and right differ in a body.
    """
    move = v2.RandomAffine(
        degrees=10,
        translate=(0.1, 0.1),
        scale=(0.65, 1.2),
        shear=5,
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    black = scan.min()
    moved, target = move(tv_tensors.Image(scan - black), tv_tensors.Mask(target))
    contrast, brightness, gamma, noise = torch.rand(4).tolist()
    scan = _gamma(moved.as_subclass(Tensor) + black, 2 ** (gamma - 0.5))
    scan = scan * (0.8 + 0.4 * contrast) + 0.6 * (brightness - 0.5)
    scan = scan + 0.15 * noise * torch.randn_like(scan[:1])
    return scan, target.as_subclass(Tensor)


def _gamma(scan: Tensor, power: float) -> Tensor:
    low, high = scan.min(), scan.max()
    span = (high - low).clamp_min(1e-6)
    return ((scan - low) / span) ** power * span + low


def _warm_up_and_fade(part: float) -> float:
    """Return the share of the peak rate after a part (0, 1] of the steps: up, then a cosine."""
    rise = 0.3
    return (
        part / rise if part < rise else 0.5 + 0.5 * math.cos(math.pi * (part - rise) / (1 - rise))
    )


@contextmanager
def _randomness(seed: int) -> Iterator[None]:
    """Seed torch for a while and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _dice(
    fitted: Fitted, images: Sequence[Image], masks: Sequence[Masks]
) -> tuple[tuple[float, ...], ...]:
    pairs = zip(predict(fitted, images), masks, strict=True)
    return tuple(tuple(dice(found > 0.5, mask).tolist()) for found, mask in pairs)


def _check(images: Sequence[Image], masks: Sequence[Masks], config: TrainConfig) -> None:
    if not images or len(images) != len(masks):
        raise ValueError(
            f"{len(images)} images and {len(masks)} masks: expected one array of masks for each "
            "image, and at least one image"
        )
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        expected = (config.classes, *image.shape[:2])
        if mask.shape != expected or mask.dtype != np.bool_:
            raise ValueError(
                f"masks {row} have shape {mask.shape} and type {mask.dtype}: expected {expected} "
                "(classes, height, width) and bool, as large as their image"
            )
