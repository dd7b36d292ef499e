"""The segmentation network: a U-Net whose skips pass through attention gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torch.nn import functional as F

DEPTH = 5  # number of halvings between the image and the deepest features
STRIDE = 2**DEPTH


class AttentionGate(nn.Module):
    """Additive attention: it dims a skip where the coarser features see nothing of interest.

    The skip (n, s, h, w) is reduced to the grid of the gating signal (n, g, h/2, w/2). The sum of
    both gives a coefficient in (0, 1) per cell, which is upsampled bilinearly to the skip.

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
        """Return a coefficient per pixel of the skip, shape (n, 1, h, w)."""
        score = self.score(F.relu(self.skip(skip) + self.gating(gating)))  # (n, 1, h/2, w/2)
        coarse = torch.sigmoid(score)
        return F.interpolate(coarse, size=skip.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Return the skip times its attention, shape (n, s, h, w)."""
        return skip * self.attention(skip, gating)


class DecoderBlock(nn.Module):
    """Doubles the resolution of features and joins them with a gated skip, if there is a skip."""

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
        classes: Number of independent classes; each has its own logit.
        half: Whether the decoder ends at half the resolution of the images, and the logits are
            enlarged. The block that is left out has no skip; with a small encoder it takes a third
            of a step.

    Raises:
        ValueError: If the encoder is unknown or has no features for skips, or the sides of an image
            are not multiples of the stride.
    """

    def __init__(
        self, encoder_name: str, in_channels: int, classes: int, *, half: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder = _encoder(encoder_name, in_channels)
        channels: list[int] = list(encoder.out_channels)
        deepest, *skips = channels[:0:-1]
        widths = decoder_channels(channels)
        blocks = list(zip([deepest, *widths], [*skips, 0], widths, strict=False))
        kept = blocks[:-1] if half else blocks
        self.decoder = nn.ModuleList(DecoderBlock(*block) for block in kept)
        self.head = SegmentationHead(widths[len(kept) - 1], classes, kernel_size=3)
        initialize_decoder(self.decoder)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (n, classes, h, w)."""
        features, *skips = self.encode(images)
        for block, skip in zip(self.decoder, [*skips, None][: len(self.decoder)], strict=True):
            features = block(features, skip)
        logits: Tensor = self.head(features)
        if logits.shape[2:] == images.shape[2:]:
            return logits
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's features, deepest first; the size doubles from each to the next."""
        height, width = images.shape[2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"images of {height}x{width} pixels do not fit this network: height and width must "
                f"be multiples of {STRIDE}; pad them"
            )
        features: list[Tensor] = self.encoder(images)[:0:-1]  # without the image itself
        return features


@torch.inference_mode()
def attention_maps(network: AttentionUnet, images: Tensor) -> list[Tensor]:
    """Return the coefficients of each gate, coarse to fine, shape (n, 1, h, w) each.

    A map has the resolution of its skip: h / 16 first and h / 2 last for images of height h. If the
    encoder has no features at a resolution, there is no skip and no map.

    Args:
        network: It is put into evaluation mode, so that the maps are those of a prediction.
        images: Input of the network, shape (n, in_channels, h, w), on its device.

    Raises:
        ValueError: If the sides of an image are not multiples of the stride.
    """
    features, *skips = network.eval().encode(images)
    maps = []
    # A whole decoder has one block more, which has no skip.
    for block, skip in zip(network.decoder, skips, strict=False):
        if isinstance(block, DecoderBlock) and block.gate is not None:
            maps.append(block.gate.attention(skip, features))
        features = block(features, skip)
    return maps


def decoder_channels(encoder_channels: Sequence[int]) -> list[int]:
    """Return the decoder's widths, deepest first: half of each skip's width, from 16 to 256."""
    skips = list(encoder_channels[-2:0:-1])
    return [min(max(channels // 2, 16), 256) for channels in [*skips, 0]]


def _encoder(name: str, in_channels: int) -> Any:
    try:
        return get_encoder(name, in_channels=in_channels, depth=DEPTH, weights=None)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"unknown encoder {name!r}: expected an encoder of segmentation-models-pytorch, such "
            "as 'resnet18', or 'tu-' and the name of a timm model"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"encoder {name!r} gives no features at halved sizes ({error}): choose a convolutional "
            "network, or a transformer in stages such as 'mit_b0'"
        ) from error
