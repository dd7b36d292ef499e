from __future__ import annotations

import numpy as np
import torch

from model.augmentation import aims, apply_gamma, augment
from tests.model.scans import disc


def test_a_mask_moves_with_its_scan() -> None:
    _, mask = disc(64, 64, seed=0)
    scans = torch.from_numpy(mask.astype(np.float32)).expand(8, 1, 64, 64)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved, targets = augment(scans, scans)

    assert moved.shape == (8, 3, 64, 64)
    for scan, target, before in zip(moved, targets, scans, strict=True):
        inside, outside = scan[0][target[0] > 0.99], scan[0][target[0] < 0.01]
        assert inside.mean() > outside.mean() + 0.5
        assert not torch.equal(target, before)


def test_a_gamma_bends_the_grey_values_and_keeps_the_darkest_and_the_brightest() -> None:
    scans = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)

    bent = apply_gamma(scans, torch.full((1, 1, 1, 1), 2.0))

    torch.testing.assert_close(bent.flatten(), torch.tensor([1.0, 1.5, 3.0]))


def test_a_part_of_a_scan_moves_with_its_mask_and_keeps_its_scale() -> None:
    _, mask = disc(64, 64, seed=0)
    scans = torch.from_numpy(mask.astype(np.float32)).expand(64, 1, 64, 64)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts, targets = augment(scans, scans, crop=32)

    assert parts.shape == (64, 3, 32, 32)
    assert targets.shape == (64, 1, 32, 32)
    whole = targets.sum(dim=(1, 2, 3)).max()  # of a part that holds the whole disc
    assert 0.65**2 * 0.8 < whole / mask.sum() < 1.2**2 * 1.2
    for part, target in zip(parts, targets, strict=True):
        inside, outside = part[0][target[0] > 0.99], part[0][target[0] < 0.01]
        if len(inside) and len(outside):
            assert inside.mean() > outside.mean() + 0.3


def test_parts_show_each_class_that_occurs_however_small_it_is() -> None:
    targets = torch.zeros(400, 3, 64, 64)
    targets[:, 0, :, :32] = 1
    targets[:, 1, 50, 60] = 1  # one pixel; the third class never occurs

    with torch.random.fork_rng():
        torch.manual_seed(0)
        centres = aims(targets > 0.5, 0.25)

    assert centres.abs().max() <= 1 - 0.9 * 0.25
    at = torch.tensor([60.5, 50.5]) / 32 - 1
    near = ((centres - at).abs() <= 0.25).all(dim=1).float().mean()
    assert 0.2 < near < 0.4, "a quarter is aimed at it, and few of the others hit it by chance"
