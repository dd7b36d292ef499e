"""The control that every acquisition has to beat: scans drawn at random."""

from __future__ import annotations

from model.acquisition.strategy import Acquisition, Array, Candidates


class Random(Acquisition):
    """A random score for each scan of the pool, the same in every round."""

    words = "drawn at random"

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(candidates)
        drawn: Array = candidates.generator(anew=False).random(candidates.size)
        self._score: Array = drawn[candidates.rows]

    def utility(self) -> Array:
        """The random numbers."""
        return self._score

    def worth(self, scores: Array) -> Array:
        """The random numbers: a control that prefers quick scans would be none."""
        return scores
