"""Shortlist the most uncertain scans, and pick those of them that lie farthest apart.

Source: the two-stage filter of Entropy-UMAP (arXiv 2312.10361), with farthest points as the second
stage. It needs no weight between uncertainty and distance.
"""

from __future__ import annotations

import math

import numpy as np

from model.acquisition.strategy import Acquisition, Array, Candidates

SHORTLIST = 4  # times the batch, at most half of the candidates


class EntropyThenDiversity(Acquisition):
    """Shortlisted scans by diversity, then the others by uncertainty."""

    remedy = "choose the acquisition coverage, or entropy-diversity with a higher alpha"

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(candidates)
        order = np.argsort(-candidates.uncertainty, kind="stable")
        self._shortlisted = np.zeros(len(order), bool)
        size = min(SHORTLIST * candidates.batch, math.ceil(len(order) / 2))
        self._shortlisted[order[:size]] = True

    def utility(self) -> Array:
        """D in [0, 1] on the shortlist, H - 1 for the others; H for all while D is unknown."""
        if not self.state.diversity[self.state.left].any():
            return self.state.uncertainty
        return np.where(self._shortlisted, self.state.diversity, self.state.uncertainty - 1)

    def rest(self) -> Array:
        """The uncertainty: the next round makes its own shortlist."""
        return self.state.uncertainty
