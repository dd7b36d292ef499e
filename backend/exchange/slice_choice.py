"""Which slices of a volume become tasks, and which are shown beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

import numpy as np

from backend.errors import ConfigError
from backend.imaging.volumes import Volume
from backend.imaging.windows import tissue_threshold
from backend.storage.pages import MOST_PAGES

ALL, TISSUE, EVERY = "all", "tissue", "every:"
BESIDE = 7  # slices that are shown on each side of a task's own
_LEAST_TISSUE = 0.02  # of a slice's pixels

Slab = tuple[int, ...]  # indices of neighbouring slices, rising


def check(asked: str) -> None:
    """Raise unless a choice is known.

    Raises:
        ConfigError: If it is neither `all` nor `tissue` nor every:N.
    """
    if asked not in (ALL, TISSUE):
        _step(asked)


def chosen(asked: str, volume: Volume) -> list[int]:
    """Return the indices of a volume's slices that become tasks.

    Args:
        asked: `all`; `every:N` for the middle one of each N slices; or `tissue` for those of which
            2 % lie above the value that best separates the volume into dark and bright.
        volume: The volume.

    Raises:
        ConfigError: If the choice is unknown, or the volume cannot be read.
    """
    present = list(volume.present)
    if asked == ALL:
        return present
    if asked == TISSUE:
        threshold = tissue_threshold(volume)
        return [index for index in present if _tissue(volume, index, threshold) >= _LEAST_TISSUE]
    step = _step(asked)
    return present[min(step - 1, len(present) - 1) // 2 :: step]


def check_slab(size: int) -> None:
    """Raise unless a slab may have so many pages.

    Raises:
        ConfigError: If it is neither 1 (no slabs) nor an odd number from 3 to MOST_PAGES.
    """
    if size != 1 and not (3 <= size <= MOST_PAGES and size % 2):
        raise ConfigError(
            f"--slab is {size}, expected an odd number from 3 to {MOST_PAGES}.",
            "Give for example --slab 5 for a slice with two on each side.",
        )


def slabs(
    centres: Iterable[int], present: Sequence[int], size: int, known: Iterable[Slab] = ()
) -> list[Slab]:
    """Return slabs that hold all centres, by rising index; no slice is in two of them.

    A slab lies around its centre, unless the slab before it ends later than that or the volume
    begins there; at the end of the volume and before a known slab it is shorter.

    Args:
        centres: Indices of chosen slices.
        present: Indices of all slices of the volume, rising.
        size: Pages of a slab.
        known: Slabs that stay as they are.
    """
    made = [*known]
    taken = {index for slab in made for index in slab}
    for centre in sorted(centres):
        if centre not in taken:
            slab = _around(present.index(centre), present, size, taken)
            made.append(slab)
            taken.update(slab)
    return sorted(made)


def _around(place: int, present: Sequence[int], size: int, taken: set[int]) -> Slab:
    first = place
    while first > max(place - size // 2, 0) and present[first - 1] not in taken:
        first -= 1
    free = takewhile(lambda index: index not in taken, present[first : first + size])
    return tuple(free)


def beside(index: int, present: Sequence[int]) -> list[int]:
    """Return the present indices within BESIDE of a slice, with its own, rising."""
    return [other for other in present if abs(other - index) <= BESIDE]


def with_neighbours(tasks: Iterable[int], present: Sequence[int]) -> list[int]:
    """Return all indices that are shown: tasks and what stands beside them, rising."""
    return sorted({other for index in tasks for other in beside(index, present)})


def _tissue(volume: Volume, index: int, threshold: float) -> float:
    values = volume.read(index)
    return float(np.mean(values < threshold if volume.inverted else values > threshold))


def _step(asked: str) -> int:
    number = asked.removeprefix(EVERY)
    if not asked.startswith(EVERY) or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            f"--slices is {asked!r}, expected {ALL}, {TISSUE} or {EVERY}N.",
            "Give for example --slices every:3 for each third slice.",
        )
    return int(number)
