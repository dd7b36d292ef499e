"""Which score finds wrong labels: planted errors, and out-of-fold predictions.

    python -m bench.review DIR --seeds 0 1 --labels 60 > bench/results/review-NAME.csv

docs/benchmarks/review.md holds the question, the ruler and what would refute the claim.

DIR holds scans or volumes, as for `simulate` (docs/experiments.md). Of volumes each patient gives
one drawn slice on which something is labelled. A tenth of the labels is corrupted, one by each kind
of error in turn. Networks of the quick kind are trained on these labels, in folds by group. The
same networks then judge further plantings: other errors in other scans, with the errors of the
first planting taken back. That needs no further training, and the networks still learnt from a
tenth of wrong labels.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score

from bench.refining import Pool, read
from model import review
from model.evaluation import METRICS
from model.recipes import default_config
from model.refinement import LabelledScans, split

Masks = NDArray[np.bool_]
Probabilities = NDArray[np.float32]
Scores = NDArray[np.float64]

SHARE, PLANTINGS = 0.1, 20
SHIFT, DILATION, MISSING = 0.08, 5, 0.4
TEMPERATURE = 0.1  # of cleanlab's softmin
SIDES = ("wingspan130",)  # sets whose first two classes are the sides of one organ


# -- the errors -----------------------------------------------------------------------------------


def missing(mask: Masks, rng: np.random.Generator, other: Masks) -> Masks:
    """Cut off a part of one class, in a random direction."""
    changed, row = mask.copy(), _drawn(mask, rng)
    places = np.argwhere(mask[row])
    angle = rng.uniform(0, 2 * np.pi)
    along = places @ np.array([np.sin(angle), np.cos(angle)])
    lost = places[along < np.quantile(along, MISSING)]
    changed[row, lost[:, 0], lost[:, 1]] = False
    return changed


def shifted(mask: Masks, rng: np.random.Generator, other: Masks) -> Masks:
    """Move all classes by a share of the longer side, in a random direction."""
    angle, far = rng.uniform(0, 2 * np.pi), SHIFT * max(mask.shape[1:])
    by = (0, round(far * np.sin(angle)), round(far * np.cos(angle)))
    return np.asarray(ndimage.shift(mask.astype(np.uint8), by, order=0) > 0)


def dilated(mask: Masks, rng: np.random.Generator, other: Masks) -> Masks:
    """Widen all classes."""
    return np.stack([ndimage.binary_dilation(plane, iterations=DILATION) for plane in mask])


def emptied(mask: Masks, rng: np.random.Generator, other: Masks) -> Masks:
    """Empty one class."""
    changed = mask.copy()
    changed[_drawn(mask, rng)] = False
    return changed


def swapped(mask: Masks, rng: np.random.Generator, other: Masks) -> Masks:
    """Take the mask of another scan."""
    size = [1, *(here / there for here, there in zip(mask.shape[1:], other.shape[1:], strict=True))]
    return np.asarray(ndimage.zoom(other.astype(np.uint8), size, order=0) > 0)


def exchanged(mask: Masks, rng: np.random.Generator, other: Masks) -> Masks:
    """Exchange the first two classes."""
    return mask[[1, 0, *range(2, len(mask))]]


Error = Callable[[Masks, np.random.Generator, Masks], Masks]
ERRORS: tuple[Error, ...] = (swapped, missing, shifted, dilated, emptied)


def _drawn(mask: Masks, rng: np.random.Generator) -> int:
    """Return a class that is present."""
    return int(rng.choice(np.flatnonzero(mask.any(axis=(1, 2)))))


def planted(
    masks: Sequence[Masks], errors: Sequence[Error], rng: np.random.Generator
) -> dict[int, tuple[str, Masks]]:
    """Return the name of the error and the wrong mask of a tenth of the scans, by row."""
    rows = rng.permutation(len(masks))[: round(SHARE * len(masks))]
    turn = rng.permutation(len(errors))
    found = {}
    for place, row in enumerate(rows.tolist()):
        error = errors[turn[place % len(turn)]]
        other = masks[(row + 1 + int(rng.integers(len(masks) - 1))) % len(masks)]
        found[row] = (error.__name__, error(masks[row], rng, other))
    return found


# -- the candidates -------------------------------------------------------------------------------


def softmin(p: Probabilities, y: Masks) -> Scores:
    """1 minus cleanlab's image score: the soft minimum of each pixel's probability of its label."""
    of_label = np.where(y, p, 1 - p).reshape(len(p), -1).astype(np.float64)
    weights = np.exp((1 - of_label) / TEMPERATURE)
    return np.asarray(1 - (of_label * weights).sum(axis=1) / weights.sum(axis=1))


def overlap(p: Probabilities, y: Masks) -> Scores:
    """1 - Dice; 0 if both masks are empty."""
    return 1 - METRICS["dice"].function(p > 0.5, y, None)


def residual(p: Probabilities, y: Masks) -> Scores:
    """1 - Dice, minus the 1 - Dice that the probabilities themselves expect of the prediction."""
    drawn = p > 0.5
    both = (drawn.sum(axis=(1, 2)) + p.sum(axis=(1, 2), dtype=np.float64)).astype(float)
    inside = 2 * (p * drawn).sum(axis=(1, 2), dtype=np.float64)
    expected = 1 - np.divide(inside, both, out=np.ones(len(p)), where=both > 0)
    return np.asarray(overlap(p, y) - expected)


CANDIDATES: Mapping[str, Callable[[Probabilities, Masks], Scores]] = {
    "softmin": softmin,
    "1 - dice": overlap,
    "confident disagreement": review.disagreement,
    "dice residual": residual,
}
MERGES: Mapping[str, Callable[[Scores], float]] = {
    "mean": lambda scores: float(scores.mean()),
    "max": lambda scores: float(scores.max()),
}


# -- the runs -------------------------------------------------------------------------------------


def labelled(pool: Pool, labels: int, seed: int) -> LabelledScans:
    """Return the drawn scans; of volumes, a drawn slice of every patient."""
    chance = np.random.default_rng(seed)
    groups = chance.permutation(np.unique(pool.groups)).tolist()
    drawn = [[row for row in pool.of(group) if pool.masks[row].any()] for group in groups]
    return pool.labelled([int(chance.choice(rows)) for rows in drawn if rows][:labels])


def predictions(
    scans: LabelledScans, masks: list[Masks], seed: int, steps: int | None
) -> list[Probabilities]:
    """Return the out-of-fold probabilities of all scans, with these masks as their labels."""
    wrong = LabelledScans(scans.images, masks, scans.groups)
    config = default_config("cpu", len(masks[0]), seed=seed)
    config = replace(config, steps=steps or config.steps)
    folds = split(scans.groups, seed, review.FOLDS)
    found: dict[int, Probabilities] = {}
    for fold in np.unique(folds):
        held = folds == fold
        rows = np.flatnonzero(held).tolist()
        found |= zip(rows, review.out_of_fold(wrong, held, config), strict=True)
    return [found[row] for row in range(len(masks))]


def rows_of(
    name: str, scans: LabelledScans, errors: Sequence[Error], seed: int, steps: int | None
) -> Iterator[dict[str, object]]:
    """Yield the figures of each planting, candidate and way to merge the classes."""
    rng = np.random.default_rng([seed, 1])
    first = planted(scans.masks, errors, rng)
    taught = [first[row][1] if row in first else mask for row, mask in enumerate(scans.masks)]
    found = predictions(scans, taught, seed, steps)
    for planting in range(PLANTINGS):
        wrong = planted(scans.masks, errors, rng) if planting else first
        shown = [wrong[row][1] if row in wrong else mask for row, mask in enumerate(scans.masks)]
        truth = np.array([row in wrong for row in range(len(shown))])
        for candidate, score in CANDIDATES.items():
            by_class = [score(p, y) for p, y in zip(found, shown, strict=True)]
            for merge, merged in MERGES.items():
                scores = np.array([merged(each) for each in by_class])
                ranks = (-scores).argsort(kind="stable")
                top = ranks[: truth.sum()]
                places = {row: int(np.flatnonzero(ranks == row)[0]) + 1 for row in wrong}
                yield {
                    "set": name, "seed": seed, "planting": planting, "labels": len(shown),
                    "planted": int(truth.sum()), "score": candidate, "classes": merge,
                    "auprc": round(float(average_precision_score(truth, scores)), 4),
                    "precision": round(float(truth[top].mean()), 4),
                    "ranks": " ".join(f"{wrong[row][0]}:{at}" for row, at in places.items()),
                }  # fmt: skip


def main() -> None:
    """Write a row for every seed, planting, candidate and merge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--labels", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, help="of a training; those of a round if not given")
    asked = parser.parse_args()
    pool, name = read(asked.directory), asked.directory.name
    errors = [*ERRORS, exchanged] if name in SIDES else list(ERRORS)
    writer = None
    for seed in asked.seeds:
        scans = labelled(pool, asked.labels, seed)
        for row in rows_of(name, scans, errors, seed, asked.steps):
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(row))
                writer.writeheader()
            writer.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
