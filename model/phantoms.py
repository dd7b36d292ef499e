"""Synthetic chest-like scans with exact organ masks, for demos and tests without real data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Field = NDArray[np.float64]

STANDARD, TILTED, INVERTED, NOISY, COLLAPSED = range(5)
SHARES = (0.4, 0.25, 0.15, 0.12, 0.08)  # unequal, so that random draws easily miss a rare mode


@dataclass(frozen=True)
class Phantom:
    """A synthetic scan.

    Attributes:
        image: Grey values in [0, 1], shape (h, w).
        mask: The organs as drawn, before blur and noise, shape (classes, h, w).
        mode: The variation: STANDARD, TILTED (pose), INVERTED (window), NOISY (low dose) or
            COLLAPSED (one small lung, a device on the chest).
    """

    image: Image
    mask: Mask
    mode: int


def generate(
    count: int, *, size: int | tuple[int, int] = (128, 128), classes: int = 1, seed: int = 0
) -> list[Phantom]:
    """Return scans of two lungs in a body, in five modes of unequal frequency.

    Args:
        count: Number of scans; scan i of a seed is the same for every count.
        size: Height and width in pixels, or the side of a square; at least 32.
        classes: 1 for both lungs in one mask, 2 for a mask of each half of the image.
        seed: Of the series.
    Raises:
        ValueError: If an argument is outside these bounds.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if count < 0 or min(height, width) < 32 or classes not in (1, 2):
        raise ValueError(
            f"count={count}, size={(height, width)}, classes={classes}: count must be at least 0, "
            "both sides at least 32 pixels, classes 1 or 2"
        )
    return [
        _draw(np.random.default_rng([seed, row]), (height, width), classes) for row in range(count)
    ]


def _draw(rng: np.random.Generator, shape: tuple[int, int], classes: int) -> Phantom:
    mode = int(rng.choice(len(SHARES), p=SHARES))
    y, x = _body_coordinates(rng, shape, tilted=mode == TILTED)
    across = ((x - 0.06) / rng.uniform(0.24, 0.34)) ** 2
    heart = across + ((y - 0.2) / 0.32) ** 2 < 1
    # Cut the lung below the heart, where only a sliver of a few pixels would remain.
    chest = across + (np.minimum(y - 0.2, 0) / 0.32) ** 2 >= 1
    lungs = _lungs(rng, y, x, collapsed=mode == COLLAPSED) & chest
    tissue = _tissue(rng, y, x, lungs, heart)
    if mode == COLLAPSED:
        _add_device(rng, tissue, y, x)
    image = _expose(rng, tissue, noisy=mode == NOISY, inverted=mode == INVERTED)
    mask = lungs if classes == 2 else lungs[:1] | lungs[1:]
    return Phantom(image, mask, mode)


def _body_coordinates(
    rng: np.random.Generator, shape: tuple[int, int], *, tilted: bool
) -> tuple[Field, Field]:
    """Return y and x of every pixel in the body's frame, in which the image spans [-1, 1]."""
    angle = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(14, 24) if tilted else rng.normal(0, 2))
    scale = rng.uniform(0.7, 0.8) if tilted else rng.uniform(0.93, 1.07)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    y, x = y - rng.normal(0, 0.03), x - rng.normal(0, 0.03)
    turned_y = np.cos(angle) * y - np.sin(angle) * x
    turned_x = np.sin(angle) * y + np.cos(angle) * x
    return turned_y / scale, turned_x / scale


def _lungs(rng: np.random.Generator, y: Field, x: Field, *, collapsed: bool) -> Mask:
    """Return the lungs at the left and at the right of the image, shape (2, h, w)."""
    shrunk = rng.integers(2) if collapsed else -1
    half_height = rng.uniform(0.56, 0.64)
    sides = []
    for side, sign in enumerate((-1, 1)):
        half_width = rng.uniform(0.24, 0.29)
        top = -0.1 - half_height
        if side == shrunk:
            half_width, top = half_width * 0.75, top + rng.uniform(0.45, 0.6)
        sides.append(_lung(rng, y, sign * x, half_width, top))
    return np.stack(sides)


def _lung(rng: np.random.Generator, y: Field, x: Field, half_width: float, top: float) -> Mask:
    """Return a lung on the side of positive x: narrow above, cut by the diaphragm."""
    floor = rng.uniform(0.3, 0.45)
    centre_y, half_height = (top + floor + 0.15) / 2, (floor + 0.15 - top) / 2
    taper = 1 - 0.25 * np.clip((centre_y - y) / half_height, -1, 1)
    centre_x = rng.uniform(0.4, 0.43)
    inside = np.abs((x - centre_x) / (half_width * taper)) ** 2.4
    inside += np.abs((y - centre_y) / half_height) ** 2.4
    dome = floor + 0.35 * (x - centre_x) ** 2 / half_width
    return (inside < 1) & (y < dome) & (x > 0.09)


def _tissue(rng: np.random.Generator, y: Field, x: Field, lungs: Mask, heart: Mask) -> Field:
    """Return how much each pixel absorbs: air 0, bone about 1."""
    body = np.abs(x) < 0.8 * np.sqrt(np.clip((y + 0.85) / 0.35, 0, 1)) + 0.08 * np.clip(y, 0, 1)
    body = (body & (y < 1.1)) | ((np.abs(x) < 0.2) & (y < 0))  # trunk, and neck
    ribs = np.clip(np.cos(2 * np.pi * (y * 4.2 + 1.1 * x**2 + rng.uniform())), 0, 1)
    tissue = 0.55 + 0.08 * y + 0.12 * heart
    tissue += 0.22 * np.exp(-((x / 0.09) ** 2))  # spine
    tissue += 0.1 * ribs * (np.abs(x) > 0.12) * (np.abs(y + 0.15) < 0.7)
    tissue = np.where(body, tissue, 0.03)
    # Air absorbs nothing, so the ribs before and behind it stay visible in a lung.
    opacity = _blobs(rng, y, x)
    return np.where(lungs.any(axis=0), 0.45 * tissue + 0.02 + opacity, tissue)


def _blobs(rng: np.random.Generator, y: Field, x: Field) -> Field:
    """Return up to three soft opacities at random places in the lungs."""
    total = np.zeros_like(x)
    for _ in range(rng.integers(4)):
        cy, cx = rng.uniform(-0.5, 0.3), rng.choice([-1, 1]) * rng.uniform(0.3, 0.55)
        radius = rng.uniform(0.05, 0.16)
        total += rng.uniform(0.1, 0.3) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / radius**2)
    return total


def _add_device(rng: np.random.Generator, tissue: Field, y: Field, x: Field) -> None:
    """Draw a pacemaker and its lead, brighter than bone."""
    cy, cx = rng.uniform(-0.5, -0.4), rng.choice([-1, 1]) * rng.uniform(0.45, 0.55)
    tissue[((y - cy) / 0.1) ** 4 + ((x - cx) / 0.13) ** 4 < 1] = 1.15
    lead = np.abs(x - cx * (0.15 - y) / (0.15 - cy)) < 0.02
    tissue[lead & (y > cy) & (y < 0.15)] = 1.1


def _expose(rng: np.random.Generator, tissue: Field, *, noisy: bool, inverted: bool) -> Image:
    """Return the image that a detector would record: blur, uneven field, noise, window."""
    height, width = tissue.shape
    image = ndimage.gaussian_filter(tissue, max(height, width) / 200)
    slope_y, slope_x = rng.normal(0, 0.08, 2)
    image *= 1 + slope_y * np.linspace(-1, 1, height)[:, None] + slope_x * np.linspace(-1, 1, width)
    grain = rng.uniform(0.1, 0.16) if noisy else rng.uniform(0.015, 0.03)
    image += grain * rng.standard_normal(tissue.shape)
    image = np.clip(image / 1.1, 0, 1) ** rng.uniform(0.8, 1.2)
    image = 1 - image if inverted else image
    return np.asarray(image, np.float32)
