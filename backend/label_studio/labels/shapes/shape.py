"""What a shape is: the tags that draw it, how its regions are read, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.label_studio.labels.shapes.outline import Outline
from model.masks import Boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = dict[str, Any]  # the `value` of a region: the numbers that draw it
Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Shape:
    """A way to draw a mask in Label Studio.

    Attributes:
        tag: The tag that draws it with the labels of a separate Labels tag, such as Brush.
        key: A key of its values, and of no shape before it in the registry. It tells the shape of
            a region that Label Studio stored as `labels` alone.
        read: Returns what a region covers, from its value, the size of its image and the size of
            the wanted mask. Raises ValueError with what is wrong with the value.
        draw: Yields the values of the regions that cover a plane (h, w); an outline may run as far
            from the plane as the tolerance says, in pixels. None if it is only read.
        other_tags: Further tags that draw it, such as MagicWand.
    """

    tag: str
    key: str
    read: Callable[[Value, Size, Size], Boxes | Outline]
    draw: Callable[[NDArray[np.bool_], float], Iterator[Value]] | None = None
    other_tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name here, which is also the type of its regions without labels."""
        return self.tag.lower()

    @property
    def labels_tag(self) -> str:
        """The tag that draws it with labels of its own; in lower case the type of its regions."""
        return f"{self.tag}Labels"

    @property
    def bare_tags(self) -> tuple[str, ...]:
        """The tags that draw it with the labels of a separate Labels tag."""
        return (self.tag, *self.other_tags)
