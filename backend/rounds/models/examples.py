"""What a model is trained and validated on: the pages of labelled scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.errors import ImageError
from model.refinement import LabelledScans

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float32]


class UnreadableLabels(ImageError):
    """Labelled scans became unreadable; `broken` holds the reasons by task id."""

    def __init__(self, broken: Mapping[int, ImageError], asked: int) -> None:
        super().__init__(
            f"{len(broken)} labelled scans can no longer be read.",
            "The round starts again without them.",
        )
        self.broken = broken
        self.asked = asked  # number of scans that the learner tried to read


@dataclass(frozen=True)
class Example:
    """A page of a labelled scan at working size; a scan that is no slab has one page."""

    task: int
    page: int  # from 0
    image: Pixels  # (h, w) or (h, w, 3)
    mask: Mask  # (c, h, w)
    spacing: tuple[float, float]  # of its pixels, (down, across), in pixels of the original


def labelled(examples: Sequence[Example], groups: Mapping[int, int]) -> LabelledScans:
    """Return pages as `model.refinement` takes them.

    Args:
        examples: The pages.
        groups: The group of each scan, by task id.
    """
    return LabelledScans(
        [example.image for example in examples],
        [example.mask for example in examples],
        [groups[example.task] for example in examples],
        [example.task for example in examples],
    )
