"""The segmentation network: a U-Net whose skips pass through attention gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torch.nn import functional as F

from model.encoders import networks, weights

DEPTH = 5  # halvings between the image and the deepest features
STRIDE = 2**DEPTH
RADIMAGENET_FITS = "resnet50"  # the encoder that RadImageNet's weights belong to
RADIMAGENET_FILE = (
    "expected RadImageNet ResNet-50 as officially released: ResNet50.pt (318 tensors, "
    "backbone.0.weight ...); the conversion from Keras is another network and will not do"
)


class AttentionGate(nn.Module):
    """Additive attention: a skip, dimmed wherever the coarser features see nothing of interest.

    The skip (n, s, h, w) is brought onto the grid of the gating signal (n, g, h/2, w/2), the sum of
    both gives one coefficient in (0, 1) a cell, and bilinear upsampling carries it to the skip.

    Source:
        Oktay et al. 2018, eq. 1 and 2, https://arxiv.org/abs/1804.03999.
    """

    def __init__(self, skip_channels: int, gating_channels: int) -> None:
        super().__init__()
        inner = max(skip_channels // 2, 1)
        self.skip = nn.Conv2d(skip_channels, inner, kernel_size=2, stride=2, bias=False)
        self.gating = nn.Conv2d(gating_channels, inner, kernel_size=1)
        self.score = nn.Conv2d(inner, 1, kernel_size=1)

    def attention(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Return one coefficient a pixel of the skip, shape (n, 1, h, w)."""
        score = self.score(F.relu(self.skip(skip) + self.gating(gating)))  # (n, 1, h/2, w/2)
        coarse = torch.sigmoid(score)
        return F.interpolate(coarse, size=skip.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Return the skip times its attention, shape (n, s, h, w)."""
        return skip * self.attention(skip, gating)


class DecoderBlock(nn.Module):
    """Features at twice the resolution, joined with a gated skip when there is one."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.gate = AttentionGate(skip_channels, in_channels) if skip_channels else None
        self.join = nn.Sequential(
            Conv2dReLU(in_channels + skip_channels, out_channels, kernel_size=3, padding=1),
            Conv2dReLU(out_channels, out_channels, kernel_size=3, padding=1),
        )

    def forward(self, coarse: Tensor, skip: Tensor | None) -> Tensor:
        """Return (n, out_channels, 2h, 2w) for coarse features (n, in_channels, h, w)."""
        fine = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        if self.gate is not None and skip is not None:
            fine = torch.cat([fine, self.gate(skip, coarse)], dim=1)
        out: Tensor = self.join(fine)
        return out


class AttentionUnet(nn.Module):
    """Logits (n, classes, h, w) for images (n, in_channels, h, w); h and w divisible by STRIDE.

    Args:
        encoder_name: An encoder of segmentation-models-pytorch, or "tu-" and a timm model's name.
        in_channels: Channels of the images.
        classes: Independent classes, one logit each.

    Raises:
        ValueError: If there is no such encoder, it has no features to skip with, or an image does
            not fit the stride.
    """

    def __init__(self, encoder_name: str, in_channels: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder = _encoder(encoder_name, in_channels)
        channels: list[int] = list(encoder.out_channels)
        deepest, *skips = channels[:0:-1]
        widths = decoder_channels(channels)
        blocks = zip([deepest, *widths], [*skips, 0], widths, strict=False)
        self.decoder = nn.ModuleList(DecoderBlock(*block) for block in blocks)
        self.head = SegmentationHead(widths[-1], classes, kernel_size=3)
        initialize_decoder(self.decoder)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (n, classes, h, w)."""
        features, *skips = self.encode(images)
        for block, skip in zip(self.decoder, [*skips, None], strict=True):
            features = block(features, skip)
        logits: Tensor = self.head(features)
        return logits

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's features, deepest first, each twice the size of the one before."""
        height, width = images.shape[2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"images of {height}x{width} pixels do not fit this network: height and width must "
                f"be multiples of {STRIDE}; pad them"
            )
        features: list[Tensor] = self.encoder(images)[:0:-1]  # the image itself is left out
        return features


@torch.inference_mode()
def attention_maps(network: AttentionUnet, images: Tensor) -> list[Tensor]:
    """Return what each gate lets through, coarse to fine, shape (n, 1, h, w) each.

    A map has the resolution of its skip: h / 16 first and h / 2 last for images of height h. An
    encoder without features at some resolution has no skip there, and no map.

    Args:
        network: Put into evaluation mode: the maps are those of a prediction.
        images: As the network takes them, shape (n, in_channels, h, w), on its device.

    Raises:
        ValueError: If an image does not fit the stride.
    """
    features, *skips = network.eval().encode(images)
    maps = []
    for block, skip in zip(network.decoder, skips, strict=False):  # the last block has no skip
        if isinstance(block, DecoderBlock) and block.gate is not None:
            maps.append(block.gate.attention(skip, features))
        features = block(features, skip)
    return maps


def load_radimagenet(network: AttentionUnet, path: Path) -> None:
    """Start the network's encoder, a resnet50 of three channels, from RadImageNet's weights.

    They were trained on (x - 127.5) / 127.5; ours are scaled scan by scan, which the first batch
    normalisation makes up for.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is not the official release, or the encoder is another one.
    """
    state = weights.read(path, RADIMAGENET_FILE)
    renamed = networks.official_to_torchvision(state)  # smp's names are torchvision's
    weights.fill(network.encoder, renamed, path, RADIMAGENET_FILE)


def decoder_channels(encoder_channels: Sequence[int]) -> list[int]:
    """Return the decoder's widths, deepest first: half of each skip's, from 16 to 256."""
    skips = list(encoder_channels[-2:0:-1])
    return [min(max(channels // 2, 16), 256) for channels in [*skips, 0]]


def _encoder(name: str, in_channels: int) -> Any:
    try:
        return get_encoder(name, in_channels=in_channels, depth=DEPTH, weights=None)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"no encoder is called {name!r}: expected one of segmentation-models-pytorch, such as "
            "'resnet18', or 'tu-' and the name of a timm model"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"encoder {name!r} gives no features at halved sizes ({error}): choose a convolutional "
            "network, or a transformer in stages such as 'mit_b0'"
        ) from error
