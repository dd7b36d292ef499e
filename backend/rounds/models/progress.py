"""The progress of a training, and an estimate of the time left."""

from __future__ import annotations

import math
from collections.abc import Callable

from model import training


def shown(progress: training.Progress, seconds_left: float | None) -> dict[str, float]:
    """Return the progress of a training under the names that /job_status shows.

    Unknown values are left out, and so are NaN and inf, which JSON cannot express.
    """
    shown = {
        "epoch": (progress.epoch, None),
        "epochs": (progress.epochs, None),
        "batch": (progress.step, None),
        "batches": (progress.steps, None),
        "loss": (progress.loss, 4),
        "dice": (progress.dice, 4),
        "seconds_left": (seconds_left, None),
    }
    return {
        name: round(value, digits)
        for name, (value, digits) in shown.items()
        if value is not None and math.isfinite(value)
    }


class Pace:
    """Estimates the time left, assuming the mean duration of the batches so far."""

    def __init__(self, clock: Callable[[], float], most_seconds: float) -> None:
        self._clock, self._most = clock, most_seconds
        self._first: tuple[int, float] | None = None  # number and end time of the first batch

    def seconds_left(self, progress: training.Progress) -> float | None:
        """Return the seconds until the last batch or the time limit; None after one batch."""
        now = self._clock()
        if self._first is None:
            self._first = progress.step, now
            return None
        step, began = self._first
        each = (now - began) / (progress.step - step)
        return min(each * (progress.steps - progress.step), max(self._most - (now - began), 0.0))
