"""Uncertainty with noise that fades: scans are drawn with probability H ** beta.

Sources: Kirsch et al. 2023, "Stochastic Batch Acquisition" (arXiv 2106.12059): Gumbel noise on log
H draws a batch without replacement. ClaSP PE (arXiv 2601.13677): beta grows from 1 to 100.
"""

from __future__ import annotations

import numpy as np

from model.acquisition.strategy import Acquisition, Array, Candidates

COLDEST = 100.0
BATCHES = 10  # batches until the noise has faded


class PowerNoise(Acquisition):
    """log H plus Gumbel noise of scale 1 / beta, drawn once."""

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(candidates)
        progress = len(candidates.chosen) / (BATCHES * max(1, candidates.batch))
        beta = COLDEST ** min(1.0, progress)
        noise = candidates.generator(anew=True).gumbel(size=candidates.size)[candidates.rows]
        # A scan of uncertainty 0 comes last, but keeps a finite score.
        doubt = np.maximum(candidates.ratios, np.finfo(np.float64).tiny)
        self._score: Array = np.log(doubt) + noise / beta

    def utility(self) -> Array:
        """The noisy logarithm."""
        return self._score

    def worth(self, scores: Array) -> Array:
        """Divide the draw's H ** beta and not its logarithm, which is the score."""
        minutes = self.candidates.minutes
        return scores if minutes is None else scores - np.log(minutes)
