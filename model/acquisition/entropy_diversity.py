"""The paper's rule: S = alpha D + (1 - alpha) H, one scan after another.

Source: arXiv 2601.18532, section 3.2.3, with alpha = 0.3. Its authors leave open how alpha should
change; "auto" is our answer, after Mishal & Weinshall 2024, "DCoM: Active Learning for All
Learners" (arXiv 2407.01804): explore while little of the pool is covered, exploit afterwards.
"""

from __future__ import annotations

import math

import numpy as np

from model.acquisition.strategy import Acquisition, Array, Candidates
from model.kernels import Coverage, bandwidth

STEEPNESS = 10.0
HALFWAY = 0.5  # share of the pool at whose coverage both terms weigh about the same


class EntropyDiversity(Acquisition):
    """Weighted sum of the distance to what is chosen and the uncertainty, both scaled."""

    remedy = "raise alpha, or choose the acquisition entropy-then-diversity or coverage"
    words = "uncertainty {uncertainty:.2f}, distance {diversity:.2f}: score {utility:.2f}"

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(candidates)
        self.alpha = auto_alpha(candidates) if candidates.alpha is None else candidates.alpha

    def utility(self) -> Array:
        """S as it stands; D follows every pick."""
        found: Array = self.alpha * self.state.diversity + (1 - self.alpha) * self.state.uncertainty
        return found


def auto_alpha(candidates: Candidates) -> float:
    """Return the weight of diversity, near 1 with nothing covered and 0 with everything covered.

    The labelled scans cover the pool by a kernel as wide as sqrt(n) well-placed scans need.
    """
    points = np.concatenate([candidates.chosen, candidates.points])
    needed = math.ceil(math.sqrt(len(points)))
    coverage = Coverage(
        points, bandwidth(points, needed, seed=candidates.seed), seed=candidates.seed
    )
    coverage.cover(candidates.chosen)
    return 1 - _competence(coverage.share)


def _competence(share: float) -> float:
    """Return DCoM's logistic of the coverage, scaled so that full coverage gives exactly 1."""
    full = 1 + math.exp(-STEEPNESS * (1 - HALFWAY))
    return full / (1 + math.exp(-STEEPNESS * (share - HALFWAY)))
