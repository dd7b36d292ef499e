"""Pick one by one the scan that adds most to a coverage in which small modes count too.

The same objective as the cold start `tempered`, with every scan weighted by u ** c: u is its
uncertainty, c the covered share of the pool. Without labels c is 0, and the choice is that of the
cold start; as labels cover the pool, uncertainty takes over, with no switch and no weight to set.
"""

from __future__ import annotations

import numpy as np

from model.acquisition.coverage import UncertaintyCoverage
from model.kernels import Coverage


class Tempered(UncertaintyCoverage):
    """Greedy cover of the whole pool, weighted by look-alikes and by uncertainty."""

    words = "covers {alike}; uncertainty {uncertainty:.2f}"
    beyond = UncertaintyCoverage.words

    def _coverage(self, width: float) -> Coverage:
        points, seed = self.candidates.everyone, self.candidates.seed
        doubt = self.candidates.ratios**self.candidates.covered_share
        # Labelled scans count as look-alikes, but there is nothing left to cover.
        weights = np.concatenate([np.zeros(len(self.candidates.chosen)), doubt])
        coverage = Coverage(points, width, weights=weights, seed=seed)
        coverage.temper()
        return coverage
