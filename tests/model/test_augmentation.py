from __future__ import annotations

import numpy as np
import torch

from model.augmentation import apply_gamma, augment
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
