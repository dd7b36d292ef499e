"""Clicks: how much of a draft's missing Dice is gone after a few clicks, and how quick they are.

    .venv/bin/python -m bench.clicks quality DIR --labels 5 10 --draws 0 1 --keep DRAFTS
    .venv/bin/python -m bench.clicks seconds

Questions: does a click on what is wrong, with the live model's probabilities, correct a draft
better than a random walker from the same clicks, and better than the random walker with the draft
as its prior? And how much of the missing Dice lies in the parts that two clicks point at: what does
an oracle gain that corrects exactly the part under each click?

Ruler, for `quality`: DIR holds scans or volumes, as for `simulate`. The quick network is trained on
so many scans (of volumes: one drawn slice of as many patients) of a draw, and draws the drafts of
20 others (one drawn slice of 20 patients), at working size. The same drafts serve all methods;
`--keep` stores them. A case is a class that is present on a scan. The simulated annotator clicks
into the middle of the largest wrong part (the pixel of it that is farthest from its outline), five
times at most. Dice is the mean over the cases. NoC is the number of clicks to a Dice, 5 if it is
never reached. `harmed` is the share of the image's pixels that the two first clicks turned from
right to wrong, and `far` the number of pixels farther than a quarter of the longer side from every
click that changed at all.

Refuted if, after two clicks, less than half of the draft's missing Dice is gone on two or more of
the four sets, if the walker with the draft as prior gains more on two or more of them, or if `far`
is not 0. The settings of the geodesic method were chosen on drafts of 5 labels of draw 0 of three
of the four sets, on up to 20 scans of each. On a set where the oracle gains less than half, no
method that corrects the part that a click points at can reach half.

Shall the rule along the outline (`outline`) replace the geodesic method? It was chosen on the
drafts of 5 labels of draw 0 of montgomery and wingspan130. Draw 1, with other labels and other test
scans, was run once. Refuted if, on draw 1 with 5 labels, the geodesic method removes more of the
missing Dice after two clicks on two or more of the four sets.

Ruler, for `seconds`: what the process that answers clicks computes for a request, on one thread,
without HTTP: the clicks on kept probabilities of working size, the mask at the image's own size,
and its run-length encoding as JSON. `--training` trains the quick network in another process
meanwhile. 30 requests each; the `cpu` columns are the time on a core, whatever else runs. Refuted
if p99 beside a training exceeds 300 ms at 512 x 512 pixels, or 600 ms at 2,048 x 2,048.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench import clicks_outline
from model import clicks, masks, phantoms
from model.clicks import Click, geodesic, walker

if TYPE_CHECKING:
    from bench.refining import Pool

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]
Method = Callable[["Case", Sequence[Click]], Plane]

SCANS, MOST_CLICKS, SHOWN = 20, 5, (0, 1, 2, 3, 5)
GOALS = (0.90, 0.95)
WARM, TURNS, IMPORTS_SECONDS = 3, 30, 20
QUALITY = (
    "set,labels,draw,method,cases,draft,"
    + ",".join(f"clicks_{number}" for number in SHOWN)
    + ",gone_after_2,noc_90,noc_95,harmed,far"
)
XML = (
    '<View><Image name="i" value="$image"/><BrushLabels name="t" toName="i">'
    '<Label value="Object"/></BrushLabels></View>'
)


@dataclass(frozen=True, eq=False)
class Case:
    """A class on a scan: the image, the draft's probabilities and the truth."""

    image: Plane
    draft: Plane
    truth: Mask


def _alone(case: Case, given: Sequence[Click]) -> Plane:
    return walker.drawn(case.image, given)


def _oracle(case: Case, given: Sequence[Click]) -> Plane:
    """Correct exactly the wrong part that each click points at."""
    mask = case.draft > 0.5
    for click in given:
        wrong = case.truth & ~mask if click.positive else mask & ~case.truth
        parts, _ = ndimage.label(wrong)
        mask[wrong & (parts == parts[click.row, click.column])] = click.positive
    return mask.astype(np.float32)


METHODS: dict[str, Method] = {
    "oracle": _oracle,
    "geodesic": lambda case, given: geodesic.corrected(case.image, case.draft, given),
    "outline": lambda case, given: clicks_outline.corrected(case.image, case.draft, given),
    "walker-prior": lambda case, given: walker.corrected(case.image, case.draft, given),
    "walker-alone": _alone,
}


def divide(pool: Pool, labels: int, draw: int) -> tuple[list[int], list[int]]:
    """Return the rows that are labelled and those of the test."""
    chance = np.random.default_rng(draw)
    if not pool.volumes:
        order = chance.permutation(len(pool.images)).tolist()
        return order[:labels], order[labels:][-SCANS:]
    patients = chance.permutation(np.unique(pool.groups)).tolist()

    def one(patient: int) -> int:
        return int(chance.choice([row for row in pool.of(patient) if pool.masks[row].any()]))

    return [one(p) for p in patients[:labels]], [one(p) for p in patients[-SCANS:]]


def drafted(folder: Path, labels: int, draw: int, keep: Path) -> list[Case]:
    """Return the cases of a folder; drafts that were kept are read again."""
    from bench.refining import read
    from model.inference import predict
    from model.recipes import default_config
    from model.training import fit

    pool = read(folder)
    labelled, test = divide(pool, labels, draw)
    path = keep / f"{folder.name}-{labels}-{draw}.npz"
    if not path.exists():
        config = default_config("cpu", pool.masks[0].shape[0])
        model = fit([pool.images[r] for r in labelled], [pool.masks[r] for r in labelled], config)
        found = predict(model, (pool.images[row] for row in test))
        drafts: dict[str, Any] = {str(row): one for row, one in zip(test, found, strict=True)}
        np.savez(path, **drafts)
    with np.load(path) as stored:
        return [
            Case(pool.images[row], draft, truth)
            for row in test
            for draft, truth in zip(masks.tidied(stored[str(row)]), pool.masks[row], strict=True)
            if truth.any()
        ]


def dice(mask: Mask, truth: Mask) -> float:
    """Return the Dice of two masks, of which at least one is not empty."""
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def next_click(mask: Mask, truth: Mask) -> Click | None:
    """Return the click into the middle of the largest wrong part; None if nothing is wrong."""
    parts = []
    for wrong, positive in ((truth & ~mask, True), (mask & ~truth, False)):
        numbers, count = ndimage.label(wrong)
        if count:
            sizes = np.bincount(numbers.ravel())[1:]
            parts.append((int(sizes.max()), numbers == 1 + sizes.argmax(), positive))
    if not parts:
        return None
    _, part, positive = max(parts, key=lambda found: found[0])
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return Click(int(row), int(column), positive)


def annotated(case: Case, method: Method) -> tuple[list[float], float, int]:
    """Return Dice by number of clicks, the harmed share and the number of far changed pixels."""
    mask, given = (case.draft > 0.5) & (method is not _alone), list[Click]()
    first, scores = mask, [dice(mask, case.truth)]
    harmed, far = 0.0, 0
    for number in range(1, MOST_CLICKS + 1):
        click = next_click(mask, case.truth)
        if click is not None:
            given.append(click)
            mask = method(case, given) > 0.5
        scores.append(dice(mask, case.truth))
        if number == 2:
            harmed = float(((first == case.truth) & (mask != case.truth)).mean())
            far = int(((mask != first) & _beyond(given, mask.shape)).sum())
    return scores, harmed, far


def _beyond(given: Sequence[Click], shape: tuple[int, ...]) -> Mask:
    """Return the pixels that lie in no window of a click."""
    beyond = np.ones(shape, bool)
    reach = round(geodesic.REACH * max(shape))
    for click in given:
        rows = slice(max(click.row - reach, 0), click.row + reach + 1)
        beyond[rows, max(click.column - reach, 0) : click.column + reach + 1] = False
    return beyond


def quality(
    folder: Path, labels: Sequence[int], draws: Sequence[int], keep: Path, methods: Sequence[str]
) -> Iterator[str]:
    """Yield a line of CSV for each number of labels, draw and method."""
    for count, draw in product(labels, draws):
        cases = drafted(folder, count, draw, keep)
        for name in methods:
            method = METHODS[name]
            scores, harmed, far = zip(*(annotated(case, method) for case in cases), strict=True)
            yield _line([folder.name, str(count), str(draw), name], cases, np.array(scores)) + (
                f",{np.mean(harmed):.5f},{max(far)}"
            )


def _line(names: Sequence[str], cases: Sequence[Case], scores: NDArray[np.float64]) -> str:
    """Return the columns up to NoC; scores by case and number of clicks, shape (n, clicks + 1)."""
    means = scores.mean(axis=0)
    draft = float(np.mean([dice(case.draft > 0.5, case.truth) for case in cases]))
    gone = 1 - (1 - means[2]) / (1 - draft)
    needed = [
        np.where((scores >= goal).any(axis=1), (scores >= goal).argmax(axis=1), MOST_CLICKS)
        for goal in GOALS
    ]
    columns = [*names, str(len(cases)), f"{draft:.4f}"]
    columns += [f"{means[number]:.4f}" for number in SHOWN]
    return ",".join([*columns, f"{gone:.3f}", *(f"{of.mean():.2f}" for of in needed)])


def seconds(sizes: Sequence[int], training: bool) -> Iterator[str]:
    """Yield milliseconds by size of the image and number of clicks."""
    import torch

    from backend.label_studio import labels
    from backend.rounds.drafts.drafting import regions_of

    torch.set_num_threads(1)
    config = labels.parse(XML)
    [phantom] = phantoms.generate(1, size=256)
    draft = ndimage.gaussian_filter(phantom.mask[0].astype(np.float32), 4)
    with _beside(training):
        for size, number in product(sizes, (1, 3, 5)):
            given = [Click(70 + 20 * k, 60 + 25 * k, positive=k % 2 == 0) for k in range(number)]
            times, busy = [], []
            for _ in range(WARM + TURNS):
                began, used = time.perf_counter(), time.process_time()
                plane = clicks.refine(phantom.image, draft, given)
                json.dumps(regions_of("Object", plane, (size, size), config))
                times.append(1000 * (time.perf_counter() - began))
                busy.append(1000 * (time.process_time() - used))
            p50, p99 = np.quantile(times[WARM:], (0.5, 0.99))
            cpu50, cpu99 = np.quantile(busy[WARM:], (0.5, 0.99))
            beside = "training" if training else "alone"
            yield f"{size},{number},{beside},{p50:.0f},{p99:.0f},{cpu50:.0f},{cpu99:.0f}"


@contextmanager
def _beside(training: bool) -> Iterator[None]:
    """Train the quick network again and again in another process meanwhile, if asked for."""
    if not training:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_train, daemon=True)
    process.start()
    time.sleep(IMPORTS_SECONDS)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _train() -> None:
    from model.recipes import default_config
    from model.training import fit

    os.nice(10)  # as a worker
    made = phantoms.generate(10, size=256)
    while True:
        fit([one.image for one in made], [one.mask for one in made], default_config("cpu", 1))


def main() -> None:
    """Print CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("quality")
    measured.add_argument("directory", type=Path)
    measured.add_argument("--labels", type=int, nargs="+", default=[5, 10])
    measured.add_argument("--draws", type=int, nargs="+", default=[0, 1])
    measured.add_argument("--keep", type=Path, required=True, help="an existing folder for drafts")
    measured.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    timed = commands.add_parser("seconds")
    timed.add_argument("--sizes", type=int, nargs="+", default=[512, 2048])
    timed.add_argument("--training", action="store_true")
    asked = parser.parse_args()
    if asked.command == "quality":
        print(QUALITY)
        lines = quality(asked.directory, asked.labels, asked.draws, asked.keep, asked.methods)
    else:
        print("side,clicks,beside,p50_ms,p99_ms,cpu_p50_ms,cpu_p99_ms")
        lines = seconds(asked.sizes, asked.training)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
