"""Augmentation: vary scans as other patients, positions or machines would."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from model.chance import Chance
from model.preprocessing import CHANNELS

TORCHS = Chance()
AIMED = 0.5  # share of the parts that are cut out around a pixel of a class


def augment(
    scans: Tensor,
    targets: Tensor,
    crop: int = 0,
    drawn: Tensor | None = None,
    chance: Chance = TORCHS,
) -> tuple[Tensor, Tensor]:
    """Return varied scans (n, 3, side, side) and their targets (n, c, side, side).

    The variations are those of other patients, positions and machines. Scans are never mirrored,
    because left and right differ in a body.

    Args:
        scans: Shape (n, 1 or 3, size, size).
        targets: Shape (n, c, size, size).
        crop: Side of the part that is cut out of each scan; 0 for the whole scan.
        drawn: `targets` > 0.5 on the CPU, for targets on a GPU: reading them there takes long.
        chance: Of the training.
    """
    size = scans.shape[-1]
    side = crop if 0 < crop < size else size
    centres = None
    if side < size:
        drawn = targets > 0.5 if drawn is None else drawn
        centres = aims(drawn, side / size, chance).to(scans.device)
    black = scans.amin(dim=(1, 2, 3), keepdim=True)
    still = torch.cat([scans - black, targets], dim=1)
    moved = move(still, side, centres, chance)  # beyond the edge: black, no class
    contrast, brightness, gamma, noise = chance.uniform(4, len(scans), 1, 1, 1, device=scans.device)
    planes = scans.shape[1]
    scans = apply_gamma(moved[:, :planes] + black, 2 ** (gamma - 0.5))
    scans = scans * (0.8 + 0.4 * contrast) + 0.6 * (brightness - 0.5)
    scans = scans + 0.15 * noise * chance.normal_like(scans[:, :1])
    return scans.expand(-1, CHANNELS, -1, -1), moved[:, planes:]


def aims(drawn: Tensor, share: float, chance: Chance = TORCHS) -> Tensor:
    """Return where to cut parts out of squares, (n, 2): the parts' centres, across and down.

    A side of the square reaches from -1 to 1. Every second part, on average, lies around a pixel
    of a class that occurs, each class as often as the others; the remaining parts lie anywhere.

    Args:
        drawn: Which pixels belong to each class, shape (n, c, size, size), bool, on the CPU.
        share: Side of a part, as a share of the square's side.
        chance: Of the training.
    """
    reach = 1 - 0.9 * share  # a part may stick out a little, as a scan does that is moved
    centres = (chance.uniform(len(drawn), 2) * 2 - 1) * reach
    for row, planes in enumerate(drawn):
        classes = planes.any(dim=(1, 2)).nonzero()
        if len(classes) and chance.uniform() < AIMED:
            pixels = planes[classes[chance.integer(len(classes))]][0].nonzero()
            down, across = (pixels[chance.integer(len(pixels))] + 0.5) / len(planes[0]) * 2 - 1
            jitter = (chance.uniform(2) * 2 - 1) * share / 2
            centres[row] = (torch.stack([across, down]) + jitter).clamp(-reach, reach)
    return centres


def move(
    planes: Tensor, side: int, centres: Tensor | None = None, chance: Chance = TORCHS
) -> Tensor:
    """Return squares (n, c, side, side) after random affine transforms, 0 beyond the edge.

    They are rotated by at most 10 degrees, sheared by at most 5 degrees, scaled by 0.65 to 1.2 and,
    without centres, shifted by at most a tenth of a side. One call moves a whole batch;
    torchvision's RandomAffine needs a call per scan.

    Args:
        planes: Shape (n, c, size, size).
        side: Side of the result, at most `size`: a smaller result is a part of the square.
        centres: The parts' centres, as in `aims`.
        chance: Of the training.
    """
    draws = chance.uniform(5, len(planes), device=planes.device) * 2 - 1
    turn, lean = math.radians(10) * draws[0], math.radians(5) * draws[1]
    scale, shift = 0.925 + 0.275 * draws[2], 0.2 * draws[3:].T  # in these units a side is 2 long
    one, zero = torch.ones_like(lean), torch.zeros_like(lean)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    shear = torch.stack([one, lean.tan(), zero, one], 1).view(-1, 2, 2)
    there = scale[:, None, None] * rotation @ shear
    back = torch.linalg.inv_ex(there).inverse  # from result to origin; `inv` would wait for a GPU
    middle = -back @ shift[..., None] if centres is None else centres[..., None]
    theta = torch.cat([back * (side / planes.shape[-1]), middle], dim=2)
    shape = [*planes.shape[:2], side, side]
    grid = F.affine_grid(theta, shape, align_corners=False)
    return F.grid_sample(planes, grid, align_corners=False)


def apply_gamma(scans: Tensor, power: Tensor) -> Tensor:
    """Return scans (n, c, size, size) after a gamma correction with a power (n, 1, 1, 1).

    Grey values are taken as a share of their scan's range, so the darkest and the brightest stay.
    """
    low = scans.amin(dim=(1, 2, 3), keepdim=True)
    high = scans.amax(dim=(1, 2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((scans - low) / span) ** power * span + low
