"""From a few labelled scans to a trained network: one plain loop, repeatable from its seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.attention_unet import RADIMAGENET_FITS, AttentionUnet
from model.augmentation import augment
from model.evaluation import dice, scan_dice
from model.fitted import Fitted, TrainConfig, Untrainable, build_network
from model.inference import predict
from model.preprocessing import Image, letterbox, standardise, together

__all__ = [
    "PATIENCE",
    "Fitted",
    "Progress",
    "TrainConfig",
    "Untrainable",
    "default_config",
    "fit",
    "resolve_device",
    "segmentation_loss",
]

Masks = NDArray[np.bool_]
Labelled = tuple[Sequence[Image], Sequence[Masks]]

LEAST_EPOCH = 10  # batches: a pass over a handful of scans is too short to tell anything
PATIENCE = 5  # epochs without a better Dice on held-out scans until training ends
FOLLOW = 0.1  # share of the way to the newest weights that the moving average goes after a step
RISE = 0.3  # share of the steps in which the learning rate goes up


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a batch."""

    step: int  # from 1
    steps: int
    loss: float
    steps_in_epoch: int
    dice: float | None = None  # mean of `scan_dice` on held-out scans, as last measured

    @property
    def epoch(self) -> int:
        """Number of the epoch that this batch belongs to, from 1."""
        return math.ceil(self.step / self.steps_in_epoch)

    @property
    def epochs(self) -> int:
        """How many there are, the last one perhaps a shorter one."""
        return math.ceil(self.steps / self.steps_in_epoch)

    @property
    def ends_epoch(self) -> bool:
        """Whether this was the last batch of its epoch."""
        return self.step % self.steps_in_epoch == 0 or self.step == self.steps


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
    device: str,
    classes: int,
    *,
    seed: int = 0,
    image_size: int | None = None,
    encoder_weights: str = "",
) -> TrainConfig:
    """Return settings that suit the device: half a minute on two CPU cores, more on a GPU.

    RadImageNet's weights for the encoder make it a ResNet-50, far slower on a CPU.
    """
    small = device == "cpu" and not encoder_weights
    # The tiny ResNet gave the best Dice for its time of three encoders trained (bench/training.py).
    name = "tu-test_resnet" if small else "resnet34"
    return TrainConfig(
        encoder_name=RADIMAGENET_FITS if encoder_weights else name,
        image_size=image_size or (96 if device == "cpu" else 256),
        classes=classes,
        steps=130 if device == "cpu" else 600,
        batch_size=8 if device == "cpu" else 16,
        learning_rate=6e-3 if small else 1e-3,
        seed=seed,
        device=device,
        encoder_weights=encoder_weights,
    )


def fit(  # noqa: PLR0913  # the contract's keywords
    images: Sequence[Image],
    masks: Sequence[Masks],
    config: TrainConfig,
    *,
    validation: Labelled | None = None,
    start: Fitted | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
    on_batch: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Fitted:
    """Return a trained network, on a CPU the same one for the same seed.

    Args:
        images: Scans of shape (h, w) or (h, w, 3), values in [0, 1], each of any size.
        masks: One (classes, h, w) bool array for each scan; empty masks are data.
        validation: Held-out scans and masks, measured after every epoch: the weights that did best
            on them are kept, and training ends after PATIENCE epochs without a better Dice.
        start: Where to begin when `config.init` is "warm": a network of the same architecture.
        on_epoch: Told after every epoch how far training is; an epoch that `stop` cuts short is
            not told.
        on_batch: Told the same after every batch, before `on_epoch`.
        stop: Asked before every batch; once true, training ends with what there is.
    Raises:
        ValueError: If there is no scan, or scans, masks, start and config do not fit together.
        Untrainable: If the encoder's weights are missing or of another network, or the device
            cannot hold a batch of two.
    """
    for labelled in [(images, masks)] if validation is None else [(images, masks), validation]:
        _check(*labelled, config)
    device = torch.device(config.device)
    with _randomness(config.seed):
        network = _beginning(config, start, device)
        average = deepcopy(network)  # less noisy, and usable when training is cut short
        flat, flat_average = _flatten(network), _flatten(average)
        optimizer = torch.optim.AdamW([flat.parameters], fused=True)
        scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        scans, targets = _squares(images, masks, config.image_size)
        rows, size = _balanced(masks), config.batch_size
        order, epoch = _shuffled(rows), max(math.ceil(len(rows) / size), LEAST_EPOCH)
        best = _Best(config, validation)
        history: list[float] = []
        while len(history) < config.steps and not best.is_past and not (stop and stop()):
            chosen = list(islice(order, size))
            batch = augment(scans[chosen], targets[chosen])
            try:
                history.append(_backward(network, optimizer, scaler, batch))
            except torch.OutOfMemoryError as error:
                size = _halved(size, config, error)
                continue
            step = len(history)
            _descend(
                optimizer, scaler, config.learning_rate * _warm_up_and_fade(step / config.steps)
            )
            flat_average.whole.lerp_(flat.whole, FOLLOW if step > 1 else 1.0)
            if step % epoch == 0:
                best.look(average, step)
            _tell(Progress(step, config.steps, history[-1], epoch, best.last), on_batch, on_epoch)
    best.restore(average, len(history))
    return Fitted(average.eval(), config, tuple(history), best.scores)


def _tell(
    progress: Progress,
    on_batch: Callable[[Progress], None] | None,
    on_epoch: Callable[[Progress], None] | None,
) -> None:
    if on_batch is not None:
        on_batch(progress)
    if on_epoch is not None and progress.ends_epoch:
        on_epoch(progress)


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


class _Best:
    """Looks at held-out scans after an epoch, and keeps the weights that did best on them.

    Without such scans it sees nothing, and training takes its course.
    """

    def __init__(self, config: TrainConfig, validation: Labelled | None) -> None:
        self.last: float | None = None  # mean Dice as last measured
        self.scores: tuple[tuple[float, ...], ...] = ()  # of the best, each scan and class
        self._config, self._validation = config, validation
        self._dice, self._weights = -1.0, dict[str, Tensor]()
        self._looked_at, self._without_gain = -1, 0

    @property
    def is_past(self) -> bool:
        """Whether the best is too long ago to be waited for any more."""
        return self._without_gain >= PATIENCE

    def look(self, network: nn.Module, step: int) -> None:
        """Measure the network as it is after a step; a second look at one step does nothing."""
        if self._validation is None or step == self._looked_at:
            return
        scores, overall = _dice(Fitted(network, self._config, (), ()), *self._validation)
        self._looked_at, self.last = step, overall
        # While the rate goes up the network may well stand still for a while: that is no sign.
        rising = step < RISE * self._config.steps
        self._without_gain = 0 if rising or self.last > self._dice else self._without_gain + 1
        if self.last >= self._dice:  # of equals the later one, which has seen more
            self._dice, self.scores = self.last, scores
            self._weights = {key: part.clone() for key, part in network.state_dict().items()}

    def restore(self, network: nn.Module, step: int) -> None:
        """Look a last time, and give the network the weights that did best."""
        self.look(network, step)
        if self._weights:
            network.load_state_dict(self._weights)


def _beginning(config: TrainConfig, start: Fitted | None, device: torch.device) -> AttentionUnet:
    """Return the network that training starts with."""
    if (config.init == "warm") != (start is not None):
        raise ValueError(
            f"init is {config.init!r} and start is {'given' if start else 'missing'}: expected a "
            "trained network as start with 'warm', and none with 'scratch'"
        )
    if start is None:
        return build_network(config, device, encoder_weights=config.encoder_weights)
    if not config.continues(start.config):
        raise ValueError(
            f"start has encoder {start.config.encoder_name!r} and {start.config.classes} classes: "
            f"expected {config.encoder_name!r} and {config.classes}; train from scratch"
        )
    network = build_network(config, device)
    network.load_state_dict(start.network.state_dict())
    return network


@dataclass(frozen=True)
class _Flat:
    """The numbers of a network as vectors; the network's own tensors are views of them."""

    whole: Tensor  # parameters, then running statistics
    parameters: nn.Parameter  # the first part of `whole`, with its gradient


def _flatten(network: nn.Module) -> _Flat:
    """Lay the numbers of a network out one behind the other, shapes and layouts kept.

    Optimiser and moving average then take one call each where they took two hundred small ones,
    which was a tenth of a step of a small network on a CPU (bench/overhead.py).
    """
    parameters = list(network.parameters())
    statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    parts = [*parameters, *statistics]
    whole = torch.cat([part.detach().as_strided((part.numel(),), (1,)) for part in parts])
    for part, view in zip(parts, _views(whole, parts), strict=True):
        part.data = view
    first = nn.Parameter(whole[: sum(parameter.numel() for parameter in parameters)])
    first.grad = torch.zeros_like(first)
    for parameter, view in zip(parameters, _views(first.grad, parameters), strict=True):
        parameter.grad = view
    return _Flat(whole, first)


def _views(vector: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """Return a vector piece by piece, each with the shape and layout of its part."""
    pieces = torch.split(vector, [part.numel() for part in parts])
    return [
        piece.as_strided(part.shape, part.stride())
        for piece, part in zip(pieces, parts, strict=True)
    ]


def _descend(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    scaler.step(optimizer)
    scaler.update()


def _squares(images: Sequence[Image], masks: Sequence[Masks], size: int) -> tuple[Tensor, Tensor]:
    """Return scans and the share of each pixel a class has.

    Shapes are (n, 1 or 3, size, size), one plane where all scans are grey, and (n, c, size, size).
    """
    scans = together(scan for image in images for scan in standardise([image], size))
    targets = [
        letterbox(torch.from_numpy(mask.astype(np.float32, order="C")), size) for mask in masks
    ]
    return scans, torch.stack(targets)


def _balanced(masks: Sequence[Masks]) -> list[int]:
    """Return the rows of one pass: every scan once, and scans of rarer labels again.

    From the rarest label on, its scans are repeated in turn until the pass shows it as often as
    the commonest label by itself. Where one label occurs, or all equally often, nothing is.
    """
    shown = np.array([mask.any(axis=(1, 2)) for mask in masks], int)  # (n, c)
    times = shown.sum(axis=0)  # (c,)
    rows, most = list(range(len(masks))), times.max()
    for label in np.argsort(times, kind="stable"):
        holders = np.flatnonzero(shown[:, label])
        if len(holders):
            again = np.resize(holders, max(most - times[label], 0))
            rows += again.tolist()
            times = times + shown[again].sum(axis=0)  # other labels of these scans come along
    return rows


def _shuffled(rows: Sequence[int]) -> Iterator[int]:
    """Yield rows without end, one whole pass in random order after another."""
    while True:
        yield from (rows[place] for place in torch.randperm(len(rows)).tolist())


def _backward(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: tuple[Tensor, Tensor],
) -> float:
    """Return the loss of a batch, and leave its gradients and no others in the network."""
    device = next(network.parameters()).device
    scans, targets = (part.to(device) for part in batch)
    optimizer.zero_grad(set_to_none=False)
    with torch.autocast(device.type, enabled=device.type == "cuda"):
        logits = network(scans)
    loss = segmentation_loss(logits.float(), targets)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _halved(size: int, config: TrainConfig, error: torch.OutOfMemoryError) -> int:
    """Return half of a batch that did not fit; batch normalisation needs two scans at least."""
    if size <= 2:
        raise Untrainable(
            f"a batch of {size} scans of {config.image_size} pixels does not fit into the memory "
            f"of {config.device}: choose a smaller image_size, or another device"
        ) from error
    return max(size // 2, 2)


def _warm_up_and_fade(part: float) -> float:
    """Return the share of the peak rate after a part (0, 1] of the steps: up, then a cosine."""
    if part < RISE:
        return part / RISE
    return 0.5 + 0.5 * math.cos(math.pi * (part - RISE) / (1 - RISE))


@contextmanager
def _randomness(seed: int) -> Iterator[None]:
    """Seed torch for a while and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _dice(
    fitted: Fitted, images: Sequence[Image], masks: Sequence[Masks]
) -> tuple[tuple[tuple[float, ...], ...], float]:
    """Return the Dice of each scan and class, and the mean Dice of a scan."""
    found = [probabilities > 0.5 for probabilities in predict(fitted, images)]
    pairs = list(zip(found, masks, strict=True))
    overall = float(np.mean([scan_dice(*pair) for pair in pairs]))
    return tuple(tuple(dice(*pair).tolist()) for pair in pairs), overall


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
