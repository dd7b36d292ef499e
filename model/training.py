"""Train a network on a few labelled scans, in one plain loop that a seed makes repeatable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model import networks
from model.augmentation import augment
from model.chance import Chance, seeded
from model.evaluation import dice, scan_dice
from model.fitted import Fitted, TrainConfig, Untrainable, build_network
from model.inference import is_out_of_memory, predict
from model.polarity import aligned, reference_of
from model.preprocessing import Image, letterbox, standardise, together
from model.recipes import adapted

__all__ = [
    "PATIENCE",
    "Fitted",
    "Progress",
    "TrainConfig",
    "Untrainable",
    "fit",
    "segmentation_loss",
]

Masks = NDArray[np.bool_]
Labelled = tuple[Sequence[Image], Sequence[Masks]]

LEAST_EPOCH = 10  # batches; one pass over a few scans is too short to measure progress
PATIENCE = 5  # epochs without a better Dice on held-out scans until training ends
FOLLOW = 0.1  # share of the newest weights in the moving average at each step
RISE = 0.3  # share of the steps in which the learning rate rises


@dataclass(frozen=True)
class Progress:
    """The progress of a training after a batch."""

    step: int  # from 1
    steps: int
    loss_tensor: Tensor  # a scalar on the device
    steps_in_epoch: int
    dice: float | None = None  # mean of `scan_dice` on held-out scans, as last measured

    @property
    def loss(self) -> float:
        """The loss of the batch; on a GPU, to ask for it waits until it is computed."""
        return float(self.loss_tensor)

    @property
    def epoch(self) -> int:
        """Number of the epoch that this batch belongs to, from 1."""
        return math.ceil(self.step / self.steps_in_epoch)

    @property
    def epochs(self) -> int:
        """Number of epochs; the last epoch may be shorter."""
        return math.ceil(self.steps / self.steps_in_epoch)

    @property
    def ends_epoch(self) -> bool:
        """Whether this was the last batch of its epoch."""
        return self.step % self.steps_in_epoch == 0 or self.step == self.steps


def fit(  # noqa: PLR0913  # the contract's keywords
    images: Sequence[Image],
    masks: Sequence[Masks],
    config: TrainConfig,
    *,
    validation: Labelled | None = None,
    groups: Sequence[int] | None = None,
    scans: Sequence[int] | None = None,
    start: Fitted | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
    on_batch: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Fitted:
    """Return a trained network; on a CPU the same seed gives the same network.

    Args:
        images: Scans of shape (h, w) or (h, w, 3), values in [0, 1], each of any size.
        masks: A (classes, h, w) bool array for each scan; an empty mask teaches background.
        validation: Held-out scans and masks, measured after every epoch. The best weights on them
            are kept, and training ends after PATIENCE epochs without a better Dice.
        groups: Of each image, such as its patient; None if each is a group of its own. Images of
            one group look alike, so they count once where all images are compared.
        scans: The number of each image's scan; None if each is a scan of its own. If some are
            pages of one slab, no image is inverted.
        start: The network to start from if `config.init` is "warm", of the same architecture.
        on_epoch: Called with the progress after every epoch, except one that `stop` cuts short.
        on_batch: Called with the progress after every batch, before `on_epoch`.
        stop: Called before every batch; if it returns True, training ends with the weights so far.
    Raises:
        ValueError: If there is no scan, or scans, masks, start and config do not fit together.
        Untrainable: If there is no such network, the encoder's weights are missing or fit another
            network, or the device cannot hold a batch of two scans.
    """
    for labelled in [(images, masks)] if validation is None else [(images, masks), validation]:
        _check(*labelled, config)
    config = adapted(config, masks)
    reference = reference_of(images, masks, groups, scans)
    with seeded(config.seed, config.device) as chance:
        batches = _Batches(aligned(images, reference), masks, config, chance)
        network = _beginning(config, start, batches.targets)
        chance.part(network, config.crop or config.image_size)
        descent = _Descent(network)
        epoch = max(batches.in_a_pass, LEAST_EPOCH)
        best = _Best(config, validation, reference)
        history: list[Tensor] = []  # on the device: to read a loss, the program waits for it
        while len(history) < config.steps and not best.is_past and not (stop and stop()):
            rate = config.learning_rate * _warm_up_and_fade((len(history) + 1) / config.steps)
            try:
                history.append(descent.step(*batches.draw(), rate))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                batches.size = _halved(batches.size, config, error)
                continue
            step = len(history)
            if step % epoch == 0:
                best.look(descent.average, step)
            _tell(Progress(step, config.steps, history[-1], epoch, best.last), on_batch, on_epoch)
    best.restore(descent.average, len(history))
    losses = torch.stack(history).tolist() if history else []
    return Fitted(descent.average.eval(), config, tuple(losses), best.scores, reference)


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

    Dice alone has almost no gradient if a class is absent; cross-entropy then teaches background.
    Padding counts as background.

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
    """Measures held-out scans after each epoch, and keeps the weights with the best Dice.

    Without held-out scans it does nothing.
    """

    def __init__(
        self, config: TrainConfig, validation: Labelled | None, reference: tuple[float, ...]
    ) -> None:
        self.last: float | None = None  # the last measured mean Dice
        self.scores: tuple[tuple[float, ...], ...] = ()  # of the best weights, by scan and class
        self._config, self._validation, self._reference = config, validation, reference
        self._dice, self._weights = -1.0, dict[str, Tensor]()
        self._looked_at, self._without_gain = -1, 0

    @property
    def is_past(self) -> bool:
        """Whether PATIENCE epochs have passed since the best weights."""
        return self._without_gain >= PATIENCE

    def look(self, network: nn.Module, step: int) -> None:
        """Measure the network after a step; a second call for the same step does nothing."""
        if self._validation is None or step == self._looked_at:
            return
        fitted = Fitted(network, self._config, (), (), self._reference)
        scores, overall = _dice(fitted, *self._validation)
        self._looked_at, self.last = step, overall
        # While the learning rate rises the network may not improve: do not count these epochs.
        rising = step < RISE * self._config.steps
        self._without_gain = 0 if rising or self.last > self._dice else self._without_gain + 1
        if self.last >= self._dice:  # ties go to the later weights, which saw more batches
            self._dice, self.scores = self.last, scores
            self._weights = {key: part.clone() for key, part in network.state_dict().items()}

    def restore(self, network: nn.Module, step: int) -> None:
        """Measure a last time, and give the network the best weights."""
        self.look(network, step)
        if self._weights:
            network.load_state_dict(self._weights)


def _beginning(config: TrainConfig, start: Fitted | None, targets: Tensor) -> nn.Module:
    """Return the network that training starts with."""
    device = torch.device(config.device)
    if (config.init == "warm") != (start is not None):
        raise ValueError(
            f"init is {config.init!r} and start is {'given' if start else 'missing'}: expected a "
            "trained network as start with 'warm', and none with 'scratch'"
        )
    if start is None:
        network = build_network(
            config,
            device,
            encoder_weights=config.encoder_weights,
            imagenet=config.init == "imagenet",
        )
        _expect(network, targets)
        return network
    if not config.continues(start.config):
        raise ValueError(
            f"start is {start.config.network!r} with {start.config.classes} classes: expected "
            f"{config.network!r} with {config.classes}; train from scratch"
        )
    network = build_network(config, device)
    network.load_state_dict(start.network.state_dict())
    return network


@torch.no_grad()
def _expect(network: nn.Module, targets: Tensor) -> None:
    """Let an untrained network expect each class as often as its pixels occur.

    Otherwise it expects every class on half of the pixels, and spends its first steps on unlearning
    that. Where classes are small, it may then unlearn to draw them at all.
    """
    bias = networks.output_bias(network)
    if bias is not None:
        share = targets.mean(dim=(0, 2, 3)).clamp(1e-3, 0.5)
        bias.copy_(torch.logit(share))


@dataclass(frozen=True)
class _Flat:
    """All numbers of a network as vectors; the network's tensors are views of them."""

    whole: Tensor  # parameters, then running statistics
    parameters: nn.Parameter  # the first part of `whole`, with its gradient


def _flatten(network: nn.Module) -> _Flat:
    """Move all numbers of a network into one vector, and keep the tensors' shapes and layouts.

    Optimiser and moving average then need one call each instead of two hundred small calls, which
    took a tenth of a step for a small network on a CPU (bench/overhead.py).
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
    """Return views of a vector, each with the shape and layout of its part."""
    pieces = torch.split(vector, [part.numel() for part in parts])
    return [
        piece.as_strided(part.shape, part.stride())
        for piece, part in zip(pieces, parts, strict=True)
    ]


class _Descent:
    """The optimiser of a network.

    Attributes:
        average: The moving average of the network: less noisy, and usable at any step.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self.average = network, deepcopy(network)
        self._flat, self._flat_average = _flatten(network), _flatten(self.average)
        self._follow = 1.0  # at first: the average forgets the weights that no batch has changed
        device = self._flat.whole.device.type
        self._optimizer = torch.optim.AdamW([self._flat.parameters], fused=True)
        self._scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def step(self, scans: Tensor, targets: Tensor, rate: float) -> Tensor:
        """Learn from a batch at a learning rate; return its loss, a scalar."""
        device = scans.device.type
        self._optimizer.zero_grad(set_to_none=False)
        with torch.autocast(device, enabled=device == "cuda"):
            logits = self._network(scans)
        loss = segmentation_loss(logits.float(), targets)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._flat_average.whole.lerp_(self._flat.whole, self._follow)
        self._follow = FOLLOW
        return loss.detach()


class _Batches:
    """Draws varied batches of the labelled scans, on the device.

    Attributes:
        targets: Share of each pixel that belongs to each class, shape (n, c, size, size).
        size: Number of scans of a batch.
        in_a_pass: Number of batches that show every scan.
    """

    def __init__(
        self,
        images: Sequence[Image],
        masks: Sequence[Masks],
        config: TrainConfig,
        chance: Chance,
    ) -> None:
        self._device, self._crop = torch.device(config.device), config.crop
        self._chance = chance
        scans, targets = _squares(images, masks, config.image_size)
        self._drawn = targets > 0.5  # stays on the CPU
        self._scans, self.targets = _moved(scans, targets, self._device)
        rows, self.size = _balanced(masks), config.batch_size
        self._order, self.in_a_pass = _shuffled(rows, chance), math.ceil(len(rows) / self.size)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the scans and targets of the next batch, as in `augment`."""
        rows = list(islice(self._order, self.size))
        some = self._scans[rows].to(self._device), self.targets[rows].to(self._device)
        return augment(*some, self._crop, self._drawn[rows], self._chance)


def _moved(scans: Tensor, targets: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scans and targets on the device; where they are, if they do not fit into its memory.

    All are moved at once if they fit, so that the loop copies no scan to a GPU.
    """
    try:
        return scans.to(device), targets.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return scans, targets


def _squares(images: Sequence[Image], masks: Sequence[Masks], size: int) -> tuple[Tensor, Tensor]:
    """Return scans, and the share of each pixel that belongs to each class.

    Shapes are (n, 1 or 3, size, size), 1 if all scans are grey, and (n, c, size, size).
    """
    scans = together(scan for image in images for scan in standardise([image], size))
    targets = [
        letterbox(torch.from_numpy(mask.astype(np.float32, order="C")), size) for mask in masks
    ]
    return scans, torch.stack(targets)


def _balanced(masks: Sequence[Masks]) -> list[int]:
    """Return the rows of one pass: every scan once, and scans of rarer classes repeatedly.

    From the rarest class on, the scans of a class are repeated in turn until the class occurs as
    often as the commonest class. If only one class occurs, or all equally often, nothing is
    repeated.
    """
    shown = np.array([mask.any(axis=(1, 2)) for mask in masks], int)  # (n, c)
    times = shown.sum(axis=0)  # (c,)
    rows, most = list(range(len(masks))), times.max()
    for label in np.argsort(times, kind="stable"):
        holders = np.flatnonzero(shown[:, label])
        if len(holders):
            again = np.resize(holders, max(most - times[label], 0))
            rows += again.tolist()
            times = times + shown[again].sum(axis=0)  # counts the scans' other classes too
    return rows


def _shuffled(rows: Sequence[int], chance: Chance) -> Iterator[int]:
    """Yield rows endlessly, pass after pass, each in random order."""
    while True:
        yield from (rows[place] for place in chance.permutation(len(rows)).tolist())


def _halved(size: int, config: TrainConfig, error: RuntimeError) -> int:
    """Return half of a batch size that did not fit; batch normalisation needs at least 2 scans."""
    if size <= 2:
        raise Untrainable(
            f"a batch of {size} scans of {config.image_size} pixels does not fit into the memory "
            f"of {config.device}: choose a smaller image_size, a smaller network, or another device"
        ) from error
    return max(size // 2, 2)


def _warm_up_and_fade(part: float) -> float:
    """Return the share of the peak rate after a part (0, 1] of the steps: a rise, then a cosine."""
    if part < RISE:
        return part / RISE
    return 0.5 + 0.5 * math.cos(math.pi * (part - RISE) / (1 - RISE))


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
            f"{len(images)} images and {len(masks)} masks: expected an array of masks for each "
            "image, and at least one image"
        )
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        expected = (config.classes, *image.shape[:2])
        if mask.shape != expected or mask.dtype != np.bool_:
            raise ValueError(
                f"masks {row} have shape {mask.shape} and type {mask.dtype}: expected {expected} "
                "(classes, height, width) and bool, as large as their image"
            )
