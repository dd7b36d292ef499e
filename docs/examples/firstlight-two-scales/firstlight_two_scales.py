"""A network of two scales: the scan itself, and the scan at a quarter of its size."""

from __future__ import annotations

import torch
from torch import nn

FEATURES = 16


def two_scales(classes: int) -> nn.Module:
    """Return a new network with one logit for each of the independent classes."""
    return TwoScales(classes)


class TwoScales(nn.Module):
    """Logits (n, classes, h, w) for images (n, 3, h, w)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(*_layer(3), *_layer(FEATURES))
        self.coarse = nn.Sequential(*_layer(3), *_layer(FEATURES))
        self.shrink = nn.AvgPool2d(4)
        self.grow = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(2 * FEATURES, classes, kernel_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits; h and w are multiples of 32, so four divides them."""
        coarse = self.grow(self.coarse(self.shrink(images)))
        logits: torch.Tensor = self.head(torch.cat([self.fine(images), coarse], dim=1))
        return logits


def _layer(channels: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, FEATURES, kernel_size=3, padding=1)
    return convolution, nn.BatchNorm2d(FEATURES), nn.ReLU()
