"""Within a volume, ask for slices far from the chosen ones before slices near to them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FAR = 0.5  # of the largest gap: a slice with this gap or a larger one may come next


class Spread:
    """The gap of each slice: its distance to the nearest chosen slice of its group.

    Gaps are shares of the group's extent, so a heart of 10 slices compares with a head of 200.

    Args:
        groups: Group of each scan, usually its volume, shape (n,).
        places: Place of each scan in its group, shape (n,), NaN if unknown; any unit.
        chosen: Scans that are chosen already, shape (n,) bool.
    """

    def __init__(self, groups: Array, places: Array, chosen: Array) -> None:
        names, self._numbers = np.unique(groups, return_inverse=True)
        self._by_group = np.argsort(self._numbers, kind="stable")
        self._ends = np.searchsorted(self._numbers[self._by_group], np.arange(len(names) + 1))
        self._places = self._as_shares(places, len(names))
        self._chosen = np.zeros(len(groups), bool)
        # Infinite while no slice of the group is chosen, and for a scan without a place.
        self._gaps = np.full(len(groups), np.inf)
        for row in np.flatnonzero(chosen):
            self.take(int(row))

    def take(self, row: int) -> None:
        """Note that a scan was chosen."""
        self._chosen[row] = True
        rows = self._rows(int(self._numbers[row]))
        new = np.abs(self._places[rows] - self._places[row])
        self._gaps[rows] = np.fmin(self._gaps[rows], new)

    def far(self, candidates: Array) -> Array:
        """Return the candidates that are not near a chosen slice, shape (n,) bool.

        A slice is near if its gap is below half of the largest gap among the candidates. A scan
        without a known gap is never near.
        """
        known = np.isfinite(self._gaps)
        largest = self._gaps[candidates & known].max(initial=0.0)
        return np.asarray(candidates & (~known | (self._gaps >= FAR * largest)))

    def levels(self, rows: Array, opening: Array) -> Array:
        """Return when rows come if the largest gaps are halved again and again, shape (r,).

        0 stands for a gap above half of the group's extent, 1 for one above a quarter, and so on;
        the gap is that at the row's turn, after the slices of larger gaps.

        Args:
            rows: Rows not chosen yet.
            opening: Rows that come before them, at most one of each group.
        """
        levels = np.zeros(len(rows), int)
        later = self._chosen.copy()
        later[opening] = True
        at = {int(row): index for index, row in enumerate(rows)}
        for number in np.unique(self._numbers[rows]):
            members = self._rows(int(number))
            for row, gap in self._gaps_in_turn(members[~np.isnan(self._places[members])], later):
                if row in at:
                    levels[at[row]] = math.ceil(-math.log2(gap)) if gap > 0 else np.iinfo(int).max
        return levels

    def _gaps_in_turn(self, members: Array, chosen: Array) -> list[tuple[int, float]]:
        """Return each slice that is not chosen, with its gap when it is the farthest one left."""
        order = members[np.argsort(self._places[members], kind="stable")].tolist()
        places = self._places[order].tolist()
        fixed = [index for index, row in enumerate(order) if chosen[row]]
        if not fixed:
            return []
        # Beyond the outermost chosen slices the ends are farthest; then they are chosen too.
        ends = [(0, places[fixed[0]] - places[0]), (len(order) - 1, places[-1] - places[fixed[-1]])]
        outer = [(index, gap) for index, gap in ends if index not in fixed]
        stops = sorted({*fixed, *(index for index, _ in outer)})
        inner = [each for stop in pairwise(stops) for each in _halved(places, *stop)]
        return [(order[index], gap) for index, gap in outer + inner]

    def _rows(self, number: int) -> Array:
        return self._by_group[self._ends[number] : self._ends[number + 1]]

    def _as_shares(self, places: Array, groups: int) -> Array:
        low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
        np.fmin.at(low, self._numbers, places)
        np.fmax.at(high, self._numbers, places)
        extent = np.where(high > low, high - low, 1.0)
        known = np.isfinite(low)
        return np.asarray(
            (places - np.where(known, low, 0.0)[self._numbers]) / extent[self._numbers], float
        )


def _halved(places: list[float], first: int, last: int) -> list[tuple[int, float]]:
    """Return the slices between two chosen ones, each with its gap when it is the farthest."""
    found, waiting = [], [(first, last)]
    while waiting:
        low, high = waiting.pop()
        if high - low < 2:
            continue
        middle = (places[low] + places[high]) / 2
        inside = np.asarray(places[low + 1 : high])
        index = low + 1 + int(np.abs(inside - middle).argmin())
        gap = min(places[index] - places[low], places[high] - places[index])
        found.append((index, gap))
        waiting += [(low, index), (index, high)]
    return found
