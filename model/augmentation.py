"""Augmentation: vary scans as other patients, positions or machines would."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from model.preprocessing import CHANNELS


def augment(scans: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return varied scans (n, 3, size, size) and their targets (n, c, size, size).

    The variations are those of other patients, positions and machines. Scans are never mirrored,
    because left and right differ in a body.
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
    """Return squares (n, c, size, size) after random affine transforms, 0 beyond the edge.

    They are rotated by at most 10 degrees, sheared by at most 5 degrees, scaled by 0.65 to 1.2 and
    shifted by at most a tenth of a side. One call moves a whole batch; torchvision's RandomAffine
    needs a call per scan.
    """
    draws = torch.rand(5, len(planes)) * 2 - 1
    turn, lean = math.radians(10) * draws[0], math.radians(5) * draws[1]
    scale, shift = 0.925 + 0.275 * draws[2], 0.2 * draws[3:].T  # in these units a side is 2 long
    one, zero = torch.ones_like(lean), torch.zeros_like(lean)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    shear = torch.stack([one, lean.tan(), zero, one], 1).view(-1, 2, 2)
    back = torch.linalg.inv(scale[:, None, None] * rotation @ shear)  # from result to origin
    theta = torch.cat([back, -back @ shift[..., None]], dim=2)
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, align_corners=False)


def apply_gamma(scans: Tensor, power: Tensor) -> Tensor:
    """Return scans (n, c, size, size) after a gamma correction with a power (n, 1, 1, 1).

    Grey values are taken as a share of their scan's range, so the darkest and the brightest stay.
    """
    low = scans.amin(dim=(1, 2, 3), keepdim=True)
    high = scans.amax(dim=(1, 2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((scans - low) / span) ** power * span + low
