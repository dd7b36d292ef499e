"""Windows: which values of a volume become black and which white."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.errors import ConfigError
from backend.imaging.planes import Array
from backend.imaging.volumes import Volume

PERCENTILE = "percentile"
PRESETS = {  # level and width in Hounsfield units, as radiologists set them
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
    "soft-tissue": (50.0, 400.0),
    "brain": (40.0, 80.0),
}
_ENDS = (0.5, 99.5)  # percentiles of a volume: single bright voxels would darken all others
_SAMPLE = 2_000_000  # voxels that percentiles are taken of


@dataclass(frozen=True)
class Window:
    """The values that become black and white."""

    low: float
    high: float

    def grey(self, values: Array, *, inverted: bool = False) -> Array:
        """Return values as uint8: 0 at the lower end, 255 at the upper one; NaN becomes 0."""
        share = (values.astype(np.float32) - self.low) / ((self.high - self.low) or 1.0)
        share = np.clip(np.nan_to_num(share), 0, 1)
        grey: Array = np.rint(255 * (1 - share if inverted else share)).astype(np.uint8)
        return grey


def check(asked: str) -> None:
    """Raise unless a window is a preset or LEVEL/WIDTH.

    Raises:
        ConfigError: If it is neither.
    """
    if asked != PERCENTILE:
        _fixed(asked)


def window_of(asked: str, volume: Volume) -> Window:
    """Return the window of a volume: a fixed one, or its 0.5th and 99.5th percentile.

    Raises:
        ConfigError: If `asked` is neither a preset nor LEVEL/WIDTH, or the volume is unreadable.
    """
    if asked != PERCENTILE:
        return _fixed(asked)
    low, high = np.percentile(sample(volume), _ENDS)
    return Window(float(low), float(high))


def tissue_threshold(volume: Volume) -> float:
    """Return the value that best separates a volume's voxels into dark and bright ones.

    Source:
        Otsu 1979, A threshold selection method from gray-level histograms,
        https://doi.org/10.1109/TSMC.1979.4310076.
    """
    values = sample(volume)
    low, high = np.percentile(values, _ENDS)
    counts, edges = np.histogram(values.clip(low, high), bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    between = np.nan_to_num(between)
    # Between two separate groups of values many thresholds are equally good: take the middle one.
    return float(edges[1:][between >= between.max() * (1 - 1e-9)].mean())


def sample(volume: Volume) -> Array:
    """Return the finite values of a regular grid of a volume's voxels, at least one."""
    height, width = volume.plane.grid_shape
    step = max(1, round((height * width * volume.count / _SAMPLE) ** 0.5))
    found = [volume.read(index)[::step, ::step].ravel() for index in volume.present]
    values = np.concatenate(found).astype(np.float32)
    finite: Array = values[np.isfinite(values)]
    return finite if finite.size else np.zeros(1, np.float32)


def _fixed(asked: str) -> Window:
    level, width = PRESETS.get(asked) or _numbers(asked)
    return Window(level - width / 2, level + width / 2)


def _numbers(asked: str) -> tuple[float, float]:
    try:
        level, width = (float(part) for part in asked.split("/"))
    except ValueError:
        level = width = np.nan
    if not (np.isfinite(level) and np.isfinite(width) and width > 0):
        raise ConfigError(
            f"--window is {asked!r}, expected {', '.join(PRESETS)}, {PERCENTILE} or LEVEL/WIDTH.",
            "Give for example --window lung, or --window 40/400.",
        )
    return level, width
