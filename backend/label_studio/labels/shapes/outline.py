"""Outlines to be filled, and the checked numbers that they are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model import masks as codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

_FARTHEST = 1000  # per cent of the image; the editor keeps shapes roughly inside it


@dataclass(frozen=True)
class Outline:
    """An outline to be filled."""

    corners: Points  # in pixels of the wanted size
    area: float  # in pixels of its image
    share: float  # of its image that the box around it covers

    @classmethod
    def scaled(cls, corners: Points, image: tuple[int, int], size: tuple[int, int]) -> Outline:
        """Return the outline at another size.

        Args:
            corners: In pixels of the image. A shape is turned there, where angles hold, before it
                is brought to another size.
            image: Height and width of the image that it was drawn on.
            size: Height and width that are wanted.
        """
        height, width = image
        sides = np.ptp(np.clip(corners / (width, height), 0, 1), axis=0)
        return cls(
            corners=corners * (size[1] / width, size[0] / height),
            area=codec.area_of(corners),
            share=float(sides.prod()),
        )

    def fill(self, plane: NDArray[np.bool_]) -> None:
        """Cover the pixels inside, or those that the outline touches if no pixel is inside."""
        height, width = plane.shape
        covered, window = codec.filled_window(self.corners, (height, width))
        if covered.any() or self.area < 1:
            plane[window] |= covered
        else:
            plane |= codec.touched(self.corners, (height, width))


def number(value: dict[str, Any], name: str, default: float | None = None) -> float:
    """Return a number of a region's value.

    Raises:
        ValueError: If it is missing without a default, or is no number of a plausible size.
    """
    given = value.get(name, default)
    if not is_percent(given):
        unit = "degrees" if name == "rotation" else "per cent of the image"
        raise ValueError(f"{name} is {short(given)}, expected {unit}")
    return float(given)  # type: ignore[arg-type]


def is_percent(value: Any) -> bool:
    """Return whether a value is a number that can be per cent of an image."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _FARTHEST  # False for NaN


def short(value: Any) -> str:
    """Return the beginning of a value, for an error."""
    return repr(value)[:40]
