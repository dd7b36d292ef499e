"""Which models make the curve of Dice over labels that the stop rule looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backend.storage.tables import Model
from model import stopping


def models_of(models: Iterable[Model], classes: Sequence[str], batch: int) -> list[Model]:
    """Return the models of the curve, oldest first, a batch or more apart.

    Refined models are left out: they have more training than the others.

    Args:
        models: Of the project, oldest first.
        classes: The labels of today; models of others are left out.
        batch: The number of labels between two models, at least.
    """
    measured = [
        model
        for model in models
        if model.quality.held_out_dice
        and not model.quality.refined_from
        and model.classes == list(classes)
    ]
    return [measured[place] for place in stopping.spaced([m.labels for m in measured], batch)]
