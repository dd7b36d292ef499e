"""Pick one by one the scan that covers most of the uncertainty not yet covered.

Source: Bae, Oliveira & Sutherland 2024, "Uncertainty Herding" (arXiv 2412.20644): MaxHerding with
every scan weighted by its uncertainty.
"""

from __future__ import annotations

from model.acquisition.strategy import Acquisition, Array, Candidates
from model.kernels import Coverage, Herding, bandwidth
from model.pool import GREEDY


class UncertaintyCoverage(Acquisition):
    """Greedy cover of the candidates, weighted by uncertainty; the rest by distance to it."""

    most_picks = GREEDY
    remedy = "choose the acquisition entropy-diversity with a higher alpha"

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(candidates)
        count = len(candidates.chosen) + candidates.batch
        coverage = self._coverage(bandwidth(candidates.points, count, seed=candidates.seed))
        coverage.cover(candidates.chosen)
        self.width = coverage.width
        self._herding = Herding(
            candidates.points, coverage, candidates.minutes, seed=candidates.seed
        )

    def _coverage(self, width: float) -> Coverage:
        """Return the coverage to maximise, with a kernel of this width."""
        points, weights = self.candidates.points, self.candidates.ratios
        return Coverage(points, width, weights=weights, seed=self.candidates.seed)

    def utility(self) -> Array:
        """The share that a scan adds to the cover, or its last known upper bound."""
        return self._herding.gains

    def best(self, allowed: Array) -> int:
        """The allowed candidate that adds most to the cover, or most a minute."""
        return self._herding.best(allowed)

    def pick(self, index: int) -> None:
        """Take a candidate, which covers the scans around it."""
        super().pick(index)
        self._herding.choose(index)

    def rest(self) -> Array:
        """The distance to the nearest labelled or picked scan."""
        return self.state.diversity
