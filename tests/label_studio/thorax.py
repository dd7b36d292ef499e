"""Volumes that look like a chest in a CT scanner, of our own making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.backend.imaging.volume_files import save_nifti

AIR, FAT, MUSCLE, LUNG, BLOOD, BONE = -1000.0, -90.0, 50.0, -820.0, 130.0, 600.0


def thorax(seed: int, side: int = 64, slices: int = 9) -> npt.NDArray[np.int16]:
    """Return Hounsfield units, (side, side, slices), axes to the left, to the back, to the head."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (side, side, slices)), indexing="ij")

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Any:
        moved = [
            (axis - at) / radius for axis, at, radius in zip((x, y, z), centre, radii, strict=True)
        ]
        return sum(part**2 for part in moved) < 1

    wide = 0.8 + 0.08 * rng.random()
    grid = np.full(x.shape, AIR)
    for margin, value in ((0.0, FAT), (0.06, MUSCLE)):
        grid[(x / (wide - margin)) ** 2 + (y / (0.6 - margin)) ** 2 < 1] = value
    for way in (-1, 1):
        grid[ellipsoid((way * 0.4, 0.02, -0.1), (0.3, 0.44, 1.3))] = LUNG
    grid[ellipsoid((0.12, -0.18, -0.5), (0.3, 0.24, 0.9))] = BLOOD
    grid[((x / 0.11) ** 2 + ((y - 0.4) / 0.11) ** 2) < 1] = BONE
    return np.asarray(grid + rng.normal(0, 25, grid.shape), np.int16)


def save(folder: Path, number: int, **sizes: int) -> Path:
    """Write so many volumes as NIfTI files."""
    affine = np.diag([-1.5, -1.5, 6.0, 1.0])
    for seed in range(number):
        save_nifti(folder / f"Jane Doe {seed}.nii.gz", thorax(seed, **sizes), affine)
    return folder
