"""Compare the masks of several annotators of one scan, each pair once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.label_studio import labels
from backend.rounds.context import RoundContext
from backend.storage import artifacts, pages
from backend.storage.scans import ListedScan
from backend.storage.tables import Annotation, MaskComparison
from model import agreement, evaluation
from model.agreement import Comparison
from model.evaluation import METRICS

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]

# Compared in one refresh, so that a round waits for seconds only: two large masks of three classes
# take up to half a second.
SCANS_AT_ONCE = 20
LARGEST = 512  # pixels of the longer side; larger scans are compared at this size


def compare(here: RoundContext) -> bool:
    """Compare the pairs that are new or changed; return whether some scans are left for later."""
    scans = here.ledger.scans
    stored = {
        (row.first, row.second): row.key for row in here.store.annotators.comparisons(here.id)
    }
    due: dict[int, list[tuple[Annotation, Annotation]]] = {}
    valid = set()
    for first, second in _pairs(here):
        scan, ids = scans[first.task_id], (first.id, second.id)
        if not scan.height:
            continue  # the scan was not read yet
        if stored.get(ids) == _key(here, first, second, scan):
            valid.add(ids)
        else:
            due.setdefault(first.task_id, []).append((first, second))
    here.store.annotators.drop_comparisons(here.id, stored.keys() - valid)
    for task in list(due)[:SCANS_AT_ONCE]:
        _compare_scan(here, due[task], scans[task])
    return len(due) > SCANS_AT_ONCE


def _pairs(here: RoundContext) -> Iterator[tuple[Annotation, Annotation]]:
    """Yield every two labels of one scan by two known annotators, the older label first."""
    for of_scan in here.ledger.usable.values():
        known = [label for label in of_scan if label.annotator]
        for first, second in combinations(known, 2):
            if first.annotator != second.annotator:
                yield first, second


def _key(here: RoundContext, first: Annotation, second: Annotation, scan: ListedScan) -> str:
    """Return what the scores of a pair depend on."""
    rows, size = sorted(here.config.rows.items()), (scan.height, scan.width)
    # Slabs are named, so that scores of their pages one by one are not taken for theirs.
    slab = ["slab"] if len(pages.separate(scan.url)) > 1 else []
    return artifacts.digest(first.updated_at, second.updated_at, rows, size, list(METRICS), *slab)


def _compare_scan(
    here: RoundContext, pairs: Sequence[tuple[Annotation, Annotation]], scan: ListedScan
) -> None:
    shape, spacing = _reduced((scan.height, scan.width))
    masks: dict[int, list[Mask]] = {}  # of each page
    for label in {label.id: label for pair in pairs for label in pair}.values():
        [result] = here.store.labels.results(here.id, [label.id])
        masks[label.id] = [
            labels.masks(result, here.config, size=shape, page=page)
            for page in range(len(pages.separate(scan.url)))
        ]
    for first, second in pairs:
        scores = evaluation.of_pages(masks[first.id], masks[second.id], spacing)
        here.store.annotators.save_comparison(
            here.id,
            first=first.id,
            second=second.id,
            task_id=first.task_id,
            key=_key(here, first, second, scan),
            scores={name: [_known(score) for score in of] for name, of in scores.items()},
        )


def _reduced(size: Size) -> tuple[Size, tuple[float, float]]:
    """Return the size at which a scan is compared, and the spacing of its pixels.

    The spacing is in pixels of the scan, so that distances are too.
    """
    factor = max(1.0, max(size) / LARGEST)
    height, width = (max(1, round(side / factor)) for side in size)
    return (height, width), (size[0] / height, size[1] / width)


def _known(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def figures(here: RoundContext) -> dict[str, Any] | None:
    """Return how well the annotators agree; None while no scan was drawn by two annotators."""
    numbers = {label.id: label.annotator for label in here.ledger.annotations}
    stored = here.store.annotators.comparisons(here.id)
    found = [_comparison(row, numbers) for row in stored]
    if not found:
        return None
    seed = here.options.seed
    by_scan = {name: agreement.by_scan(found, metric) for name, metric in METRICS.items()}
    matrices = {name: agreement.matrix(found, metric) for name, metric in METRICS.items()}
    some = next(iter(matrices.values()))
    return {
        "scans": len({each.task for each in found}),
        "pairs": len(found),
        "annotators": some.annotators,
        "common_scans": some.scans.tolist(),
        "metrics": {
            name: {
                "mean": float(np.mean(list(by_scan[name].values()))),
                "interval": _limits(agreement.overall(found, metric, seed=seed)),
                "by_label": _by_label(here, agreement.by_class(found, metric)),
                "matrix": [[_known(score) for score in row] for row in matrices[name].scores],
            }
            for name, metric in METRICS.items()
        },
        "least": [
            {"task": task, **{name: by_scan[name][task] for name in METRICS}}
            for task in agreement.least(found)
        ],
    }


def _by_label(here: RoundContext, scores: Sequence[float]) -> dict[str, float | None]:
    return dict(zip(here.config.labels, map(_known, scores), strict=True))


def _comparison(row: MaskComparison, numbers: Mapping[int, int]) -> Comparison:
    scores = {
        name: [np.nan if score is None else score for score in of]
        for name, of in row.scores.items()
    }
    return Comparison(row.task_id, (numbers[row.first], numbers[row.second]), scores)


def _limits(interval: Sequence[float] | None) -> list[float] | None:
    return None if interval is None else list(interval[1:])
