"""Which slices to label: our order, random slices, or every third slice of random volumes.

    .venv/bin/python -m bench.volume_choices DIR RESULTS.csv --seeds 0-4

Question: with the same number of labelled slices, does our order give better masks of whole volumes
than slices at random, and than every third slice of random volumes, which spreads labels over
volumes and within them without looking at a picture? And does the order gain by reading volumes and
the places of slices, as an imported project does, instead of patients alone?

Ruler: DIR is acdc50: 944 slices of 100 volumes of 50 patients, so a patient is worth 19 slices. The
patients are dealt into five parts; the run of seed s holds part s out and chooses from the others.
Labels: as many slices as 3, 6 and 9 patients have. `order` is what a project made by `firstlight
import` does: the default options with `group_by` volume and `slice_by` slice. An untouched volume
comes first, and then slices far from the chosen ones. The cold start chooses the first count, the
acquisition the others. `order-by-patient` is the same with the patient in `group_by` and without
`slice_by`: an untouched patient comes first, and places are not read. `random` draws slices.
`every-third` draws volumes and takes the middle one of each three slices, as `import --slices
every:3` does. The quick network is trained from scratch on each choice: 96 pixels, --steps steps,
one core. `volume_dice` and `volume_hd95` are means over the held-out volumes of the means over
their classes, in three dimensions and mm; `dice` is the mean over their slices.

Refuted at a count if the 95 % interval of the difference of `volume_dice` between `order` and
`every-third`, paired over seeds, holds 0 or lies below it; the same for `random` and for
`order-by-patient`.

A line is written after each run; the same command goes on with the missing ones. Without missing
runs it prints the table.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.experiments import intervals, plans, simulate, studies
from backend.experiments.plans import Arm, Plan
from backend.experiments.scans import VolumeSlice
from backend.experiments.studies import Study
from backend.options import ProjectOptions
from backend.settings import Settings
from model.evaluation import METRICS
from model.side_by_side import using_threads

WORTH = {3: 57, 6: 113, 9: 170}  # slices of so many patients: 944 slices / 50 patients
EVERY = 3
ORDER, BY_PATIENT, RANDOM, THIRDS = "order", "order-by-patient", "random", "every-third"
MEASURES = ("volume_dice", "volume_hd95", "dice")
FIELDS = ("seed", "arm", "patients", "slices", "volumes", *MEASURES)

Row = dict[str, Any]


def orders() -> dict[str, Arm]:
    """Return our orders by name: that of an imported project, and that by patient."""
    options, encoder = ProjectOptions(), Settings().encoder
    imported = Arm(
        options.encoder_of(encoder),
        options.projection,
        options.cold_start,
        options.acquisition,
        options.alpha,
        options.uncertainty,
        plans.VOLUME_AND_SLICE,
    )
    return {ORDER: imported, BY_PATIENT: replace(imported, group_by=plans.PATIENT)}


def thirds(places: Sequence[VolumeSlice], seed: int) -> list[int]:
    """Return rows of the pool: of volumes in random order the middle one of each three slices."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, place in enumerate(places):
        rows[place.volume].append(row)
    volumes = list(rows.values())
    order = np.random.default_rng((7, seed)).permutation(len(volumes))
    return [row for number in order for row in volumes[number][(EVERY - 1) // 2 :: EVERY]]


def by_order(study: Study, name: str, seed: int) -> Iterator[Row]:
    """Yield the scores of one of our orders at each count."""
    of = study.of(seed)
    steps = simulate.run(study, orders()[name], seed)["steps"]
    chosen: list[int] = []
    for worth, step in zip(WORTH, steps, strict=True):
        chosen += step["rows"]
        scores = {measure: step[measure] for measure in MEASURES}
        yield _row(of, (seed, name, worth), chosen, scores)


def by_list(study: Study, name: str, seed: int) -> Iterator[Row]:
    """Yield the scores of a list of slices that needs no model, at each count."""
    of = study.of(seed)
    places = _places(of, of.pool)
    rows = (
        thirds(places, seed)
        if name == THIRDS
        else np.random.default_rng((8, seed)).permutation(len(places)).tolist()
    )
    for worth, count in WORTH.items():
        labelled: NDArray[np.int_] = np.sort(rows[:count])
        outcome = simulate.learn(of, labelled, seed, "")
        scores = {
            metric: float(METRICS[metric].mean(values).mean())
            for metric, values in zip(METRICS, outcome.scores, strict=True)
        }
        scores |= {
            f"volume_{metric}": float(METRICS[metric].mean(values).mean())
            for metric, values in zip(METRICS, outcome.volumes, strict=True)
        }
        yield _row(of, (seed, name, worth), [of.pool[row] for row in labelled], scores)


def _places(study: Study, rows: Sequence[int]) -> list[VolumeSlice]:
    return [scan.place for scan in study.scans(rows) if scan.place]


def _row(
    study: Study, named: tuple[int, str, int], rows: Sequence[int], scores: dict[str, float]
) -> Row:
    touched = len({place.volume for place in _places(study, rows)})
    measured = {name: round(scores[name], 5) for name in MEASURES}
    values = (*named, len(rows), touched)
    return {**dict(zip(FIELDS, values, strict=False)), **measured}


def table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Yield a Markdown table, with the differences between `order` and the others."""
    values: dict[tuple[str, str], dict[int, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        values[row["patients"], row["arm"]][int(row["seed"])] = row
    yield "| patients' worth | choice | runs | volumes | Dice by volume | HD95, mm | Dice by slice | order minus it, Dice by volume |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|"
    for (worth, arm), of in values.items():
        means = [np.mean([float(row[name]) for row in of.values()]) for name in MEASURES]
        ours = {seed: float(row["volume_dice"]) for seed, row in values[worth, ORDER].items()}
        theirs = {seed: float(row["volume_dice"]) for seed, row in of.items()}
        volumes = np.mean([int(row["volumes"]) for row in of.values()])
        yield (
            f"| {worth} | {arm} | {len(of)} | {volumes:.0f} | {means[0]:.3f} | {means[1]:.1f} | "
            f"{means[2]:.3f} | {'-' if arm == ORDER else _difference(ours, theirs)} |"
        )


def _difference(ours: dict[int, float], theirs: dict[int, float]) -> str:
    middle, low, high = intervals.interval(intervals.paired(ours, theirs))
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"


def _known(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _keep(path: Path, rows: Sequence[Row]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Make the missing runs, seed after seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", default="0-4", help="of five folds")
    parser.add_argument("--steps", type=int, default=200, help="200 in the committed rows")
    parser.add_argument("--work", type=Path, default=Path("volume-choices"), help="for trainings")
    asked = parser.parse_args()
    ours, counts = orders(), tuple(WORTH.values())
    plan = Plan(
        tuple(ours.values()), tuple(range(5)), counts, folds=5, image_size=96, steps=asked.steps
    )
    done = {(int(row["seed"]), row["arm"]) for row in _known(asked.results)}
    study = None
    for seed in plans.numbers(asked.seeds):
        for name in (*ours, THIRDS, RANDOM):
            if (seed, name) in done:
                continue
            study = study or studies.of_folder(plan, asked.folder, asked.work, Settings(), print)
            with using_threads(1):
                made = by_order if name in ours else by_list
                _keep(asked.results, list(made(study, name, seed)))
    print("\n".join(table(_known(asked.results))))


if __name__ == "__main__":
    main()
