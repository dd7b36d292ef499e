"""Which models make the curve of Dice over labels that the stop rule looks at."""

from __future__ import annotations

from collections.abc import Sequence

from backend.storage.publications import MeasuredModel
from model import stopping


def keys(measured: Sequence[MeasuredModel], classes: Sequence[str], batch: int) -> list[str]:
    """Return the keys of the models of the curve, oldest first, a batch or more apart.

    Args:
        measured: The models of rounds, oldest first. Refined models have more training than others,
            and make no curve with them.
        classes: The labels of today; models of others are left out.
        batch: The number of labels between two models, at least.
    """
    known = [model for model in measured if model.classes == list(classes)]
    return [known[place].key for place in stopping.spaced([m.labels for m in known], batch)]
