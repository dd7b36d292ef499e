"""The most uncertain scans first: uncertainty sampling (Lewis & Gale 1994)."""

from __future__ import annotations

from model.acquisition.strategy import Acquisition, Array


class Entropy(Acquisition):
    """The score is the uncertainty alone."""

    def utility(self) -> Array:
        """The scaled uncertainty."""
        return self.state.uncertainty
