"""Scans as other patients, positions or machines might have given them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from model.preprocessing import CHANNELS


def augment(scans: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return scans (n, 3, size, size) as other patients, positions or machines might have given
    them, and their targets (n, c, size, size); no mirroring, because left and right differ in a
    body.
    """
    black = scans.amin(dim=(1, 2, 3), keepdim=True)
    still = torch.cat([scans - black, targets], dim=1)
    moved = move(still)  # beyond the edge: black, no class
    contrast, brightness, gamma, noise = torch.rand(4, len(scans), 1, 1, 1)
    planes = scans.shape[1]
    scans = apply_gamma(moved[:, :planes] + black, 2 ** (gamma - 0.5))
    scans = scans * (0.8 + 0.4 * contrast) + 0.6 * (brightness - 0.5)
    scans = scans + 0.15 * noise * torch.randn_like(scans[:, :1])
    return scans.expand(-1, CHANNELS, -1, -1), moved[:, planes:]


def move(planes: Tensor) -> Tensor:
    """Return squares (n, c, size, size), each at another place by chance, 0 beyond the edge.

    Turned by at most 10 degrees, leant by 5, 0.65 to 1.2 times as large, shifted by a tenth of a
    side. One call moves a batch; torchvision's RandomAffine takes one for each scan.
    """
    draws = torch.rand(5, len(planes)) * 2 - 1
    turn, lean = math.radians(10) * draws[0], math.radians(5) * draws[1]
    scale, shift = 0.925 + 0.275 * draws[2], 0.2 * draws[3:].T  # a side is 2 long here
    one, zero = torch.ones_like(lean), torch.zeros_like(lean)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    shear = torch.stack([one, lean.tan(), zero, one], 1).view(-1, 2, 2)
    back = torch.linalg.inv(scale[:, None, None] * rotation @ shear)  # from result to origin
    theta = torch.cat([back, -back @ shift[..., None]], dim=2)
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, align_corners=False)


def apply_gamma(scans: Tensor, power: Tensor) -> Tensor:
    """Return scans (n, c, size, size) with each grey value, as a share of its scan's range, to a
    power (n, 1, 1, 1); the darkest and the brightest stay as they are.
    """
    low = scans.amin(dim=(1, 2, 3), keepdim=True)
    high = scans.amax(dim=(1, 2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((scans - low) / span) ** power * span + low
