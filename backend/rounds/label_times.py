"""The times of labels, as the maths wants them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.storage.tables import Annotation
from model.minutes import Work


def work_of(timed: Sequence[Annotation]) -> Work:
    """Return the times of labels that all have one, breaks included."""
    return Work(
        minutes=np.array([(label.seconds or 0.0) / 60 for label in timed]),
        annotator=np.array([label.annotator for label in timed], np.int64),
        drafted=np.array([is_drafted(label) for label in timed], bool),
        area=np.array([label.area for label in timed]),
    )


def is_drafted(label: Annotation) -> bool:
    """Return whether a region of a label was taken from a draft."""
    return label.kept + label.changed > 0
