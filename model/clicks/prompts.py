"""What a person points at, in pixels of the scan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Click:
    """A click on a pixel, whose class it tells.

    Attributes:
        row, column: The pixel.
        positive: Whether the pixel belongs to the class.
    """

    row: int
    column: int
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A box around one structure of the class: rows `top` to `bottom` - 1, and columns alike."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the box."""
        return slice(self.top, self.bottom), slice(self.left, self.right)
