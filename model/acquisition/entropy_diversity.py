"""The paper's rule: S = alpha D + (1 - alpha) H, one scan after another.

Source: arXiv 2601.18532, section 3.2.3, with alpha = 0.3. Its authors leave open how alpha should
change. Our answer "auto" follows Mishal & Weinshall 2024, "DCoM: Active Learning for All
Learners" (arXiv 2407.01804): explore while little of the pool is covered, exploit afterwards.
"""

from __future__ import annotations

import math

from model.acquisition.strategy import Acquisition, Array, Candidates

STEEPNESS = 10.0
HALFWAY = 0.5  # covered share of the pool at which both terms have about the same weight


class EntropyDiversity(Acquisition):
    """Weighted sum of uncertainty and distance to the nearest chosen scan, both scaled."""

    remedy = "raise alpha, or choose the acquisition entropy-then-diversity or coverage"
    words = "uncertainty {uncertainty:.2f}, distance {diversity:.2f}: score {utility:.2f}"

    def __init__(self, candidates: Candidates) -> None:
        super().__init__(candidates)
        self.alpha = auto_alpha(candidates) if candidates.alpha is None else candidates.alpha

    def utility(self) -> Array:
        """S now; D is updated after every pick."""
        found: Array = self.alpha * self.state.diversity + (1 - self.alpha) * self.state.uncertainty
        return found


def auto_alpha(candidates: Candidates) -> float:
    """Return the weight of diversity: near 1 while nothing is covered, 0 if all is covered."""
    return 1 - _competence(candidates.covered_share)


def _competence(share: float) -> float:
    """Return DCoM's logistic function of the coverage, scaled so that full coverage gives 1."""
    full = 1 + math.exp(-STEEPNESS * (1 - HALFWAY))
    return full / (1 + math.exp(-STEEPNESS * (share - HALFWAY)))
