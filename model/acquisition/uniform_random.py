"""The control that every acquisition has to beat: scans drawn at random."""

from __future__ import annotations

import numpy as np

from model.acquisition.strategy import Acquisition, Array, Candidates


class Random(Acquisition):
    """A random score for each candidate."""

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(candidates)
        self._score: Array = np.random.default_rng(candidates.seed).random(len(candidates.points))

    def utility(self) -> Array:
        """The draw."""
        return self._score
