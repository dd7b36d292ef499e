"""Replay the stop rule on simulated runs: how early it stops, and what that would have cost.

Two signs are replayed, no more gain and no more change, with the cluster rule. The third one needs
people: how much they change drafts.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from backend.experiments.results import Results, Run
from backend.experiments.studies import Array, Study
from backend.storage import artifacts
from model import evaluation, stopping
from model.evaluation import MAIN
from model.resampling import Interval
from model.stopping import ROUNDS, Point

PROBED = 40  # scans of the pool whose masks are compared
SIDE = 64  # pixels: masks are compared at this size
# Thresholds of the gain in Dice; the first is the default of the option `enough`.
THRESHOLDS = (0.005, 0.01, 0.02)
FILE = "stopping.csv"


@dataclass(frozen=True)
class Replay:
    """What the rule did in one run.

    Attributes:
        data, arm, seed: The run.
        enough: The threshold of the gain, in Dice.
        stopped: Number of labels at which the rule stopped; None if it did not.
        last: The largest number of labels of the run.
        saved: Labels that were not needed; 0 without a stop.
        next_gain: Dice that the next batch gained in truth; None without a stop.
        left: Dice that the best later network gained; None without a stop.
        too_early: Whether `left` is more than enough.
        silent: Numbers of labels at which it was too early to tell of the gain.
    """

    data: str
    arm: str
    seed: int
    enough: float
    stopped: int | None
    last: int
    saved: int
    next_gain: float | None
    left: float | None
    too_early: bool
    silent: int


def probe(study: Study) -> list[int]:
    """Return rows of the pool whose masks are compared; none if no rule is replayed."""
    if not study.plan.stop:
        return []
    count = len(study.pool)
    drawn = np.random.default_rng(study.plan.split_seed).permutation(count)[:PROBED]
    return sorted(drawn.tolist())


def thinned(masks: Iterable[Array]) -> Array:
    """Return masks (c, h, w) at one size, shape (k, c, SIDE * SIDE): every n-th pixel of each."""
    small = [_thinned(mask) for mask in masks]
    return np.stack(small) if small else np.zeros((0, 0, 0), bool)


def _thinned(mask: Array) -> Array:
    rows, columns = (np.arange(SIDE) * size // SIDE for size in mask.shape[1:])
    taken: Array = mask[:, rows][:, :, columns].reshape(len(mask), -1)
    return taken


def signs(
    rows: Sequence[int],
    labelled: Array,
    clusters: Array,
    masks: tuple[Array, Array],
    before: Array | None,
) -> dict[str, Any]:
    """Return what the record of a step keeps for the rule.

    Args:
        rows: Of the pool, whose masks are compared.
        labelled: Whether each scan of the pool has a label, shape (p,).
        clusters: Of each scan of the pool, shape (p,).
        masks: Of the step's network and of its twin, as `thinned`.
        before: Masks of the network of the step before; None at the first step.
    """
    open_ = ~labelled[list(rows)]
    now, twin = (each[open_] for each in masks)
    compared = {} if before is None else {"agreement_with_before": _agreement(now, before[open_])}
    return {
        "agreement_with_twin": _agreement(now, twin),
        **compared,
        "unlabelled_clusters": len(stopping.unlabelled_clusters(clusters, labelled)),
    }


def _agreement(masks: Array, others: Array) -> list[float]:
    return [
        evaluation.scan_dice(one[:, None], other[:, None])
        for one, other in zip(masks, others, strict=True)
    ]


def replay(run: Run, enough: float, data: str = "", arm: str = "") -> Replay:
    """Return what the rule would have done in a run.

    Args:
        run: Its record.
        enough: The threshold of the gain, in Dice.
        data: The name of the data.
        arm: The name of the arm.
    """
    steps = run["steps"]
    counts = [step["labels"] for step in steps]
    place = next(_stops(steps, enough), None)
    left = _left(steps, place)
    return Replay(
        data=data,
        arm=arm,
        seed=run["seed"],
        enough=enough,
        stopped=None if place is None else counts[place],
        last=counts[-1],
        saved=0 if place is None else counts[-1] - counts[place],
        next_gain=left[0] if left else None,
        left=max(left) if left else None,
        too_early=bool(left) and max(left) > enough,
        silent=sum(_expected(steps, at) is None for at in range(len(steps))),
    )


def _stops(steps: Sequence[Mapping[str, Any]], enough: float) -> Iterator[int]:
    """Yield the places at which the rule stops, apart from the last one: nothing comes after it."""
    for place in range(ROUNDS, len(steps) - 1):
        last = steps[place + 1 - ROUNDS : place + 1]
        curve, batch = _curve(steps, place)
        if stopping.can_stop(
            no_gain=stopping.no_more_gain(curve, batch, enough),
            no_change=all(stopping.is_unchanged(_difference(step)) for step in last),
            good_drafts=False,
            unlabelled=steps[place]["unlabelled_clusters"],
        ):
            yield place


def _left(steps: Sequence[Mapping[str, Any]], place: int | None) -> list[float]:
    """Return the Dice that each later step has more than the step of the stop; [] without one."""
    if place is None:
        return []
    return [step[MAIN.name] - steps[place][MAIN.name] for step in steps[place + 1 :]]


def _expected(steps: Sequence[Mapping[str, Any]], place: int) -> stopping.Forecast | None:
    return stopping.forecast(*_curve(steps, place))


def _curve(steps: Sequence[Mapping[str, Any]], place: int) -> tuple[stopping.Curve, int]:
    """Return the curve up to a step, and the number of labels of its last batch."""
    known = steps[: place + 1]
    points = [Point(step["labels"], dict(enumerate(_by_scan(step)))) for step in known]
    batch = known[-1]["labels"] - known[-2]["labels"] if place else known[0]["labels"]
    return stopping.curve(points), batch


def _by_scan(step: Mapping[str, Any]) -> list[float]:
    """Return the mean Dice of each held-out scan over its classes."""
    scores = [of[MAIN.name] for _, of in sorted(step["held_out"].items())]
    known = [[math.nan if one is None else one for one in of] for of in scores]
    return [float(MAIN.mean(of)) for of in known]


def _difference(step: Mapping[str, Any]) -> Interval | None:
    return stopping.change(step["agreement_with_before"], step["agreement_with_twin"])


def write(finished: Results, out: Path) -> str:
    """Write the replay of every run as a table, and return its summary as a sentence."""
    replays = [
        replay(run, enough, finished.title, arm)
        for arm, runs in finished.arms.items()
        for run in runs.values()
        for enough in THRESHOLDS
    ]
    artifacts.write(out / FILE, lambda file: file.write(_table(replays).encode()))
    return "\n".join([*summary(replays), f"The stop rule in each run: {out / FILE}"])


def _table(replays: Sequence[Replay]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Replay)], lineterminator="\n")
    table.writeheader()
    table.writerows(map(_rounded, replays))
    return text.getvalue()


def _rounded(replay: Replay) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(replay).items()
    }


def summary(replays: Sequence[Replay]) -> list[str]:
    """Return how often the rule stopped, how often too early, and what it saved, in sentences."""
    return [
        _summary([each for each in replays if each.enough == enough], enough)
        for enough in THRESHOLDS
    ]


def _summary(replays: Sequence[Replay], enough: float) -> str:
    stopped = [each for each in replays if each.stopped is not None]
    early = sum(each.too_early for each in stopped)
    said = (
        f"With a threshold of {100 * enough:g} points the rule stopped in {len(stopped)} of "
        f"{len(replays)} runs, {early} times too early"
    )
    if not stopped:
        return f"{said}."
    saved = float(np.mean([each.saved / each.last for each in stopped]))
    return f"{said}; where it stopped, {saved:.0%} of the labels were saved."
