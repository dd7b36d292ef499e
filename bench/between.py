"""Compare drafts of slices between labelled ones: interpolation against the network of a round.

    python -m bench.between DIR --volumes 6 --gaps 2 4 8 --seeds 0 1 2

DIR holds volumes, as for `simulate` (docs/experiments.md). A seed draws patients, one volume of
each, and where the labelled slices begin; every gap-th slice is labelled. The slices between two
labelled ones are the test. Contours: our signed distances, and ITK's morphological contour
interpolation (package `itk-morphologicalcontourinterpolation` 2.1.2, to be installed by hand). The
network trains as in a round on the labelled slices of all drawn volumes. A line for each volume,
gap and method: the mean Dice of each class over the tested slices in which it is in either mask, of
these slices (`dice`), and of those in which a class is drawn (`drawn`).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.experiments import datasets
from backend.experiments.scans import Dataset, ScanReader
from bench.refining import MOST_PIXELS
from model.between import between
from model.evaluation import MAIN, Masks
from model.inference import predict
from model.preprocessing import Image
from model.recipes import default_config
from model.training import fit


@dataclass(frozen=True)
class Drawn:
    """A volume with its truth, and which of its slices are labelled.

    Attributes:
        images: Of the slices, each (h, w).
        masks: Their truth, each (c, h, w).
        labelled: Places of the labelled slices, rising.
    """

    name: str
    images: list[Image]
    masks: list[Masks]
    labelled: list[int]

    @property
    def tested(self) -> list[tuple[int, int, int]]:
        """The slices between labelled ones: (before, slice, after)."""
        return [
            (before, place, after)
            for before, after in pairwise(self.labelled)
            for place in range(before + 1, after)
        ]


def drawn(dataset: Dataset, number: int, gap: int, seed: int) -> list[Drawn]:
    """Return volumes of different patients that are longer than the gap."""
    chance, volumes = np.random.default_rng(seed), dict[str, list[ScanReader]]()
    for reader in dataset.scans:
        volumes.setdefault(reader.volume, []).append(reader)
    by_patient: dict[str, list[str]] = {}
    for name, readers in volumes.items():
        by_patient.setdefault(dataset.patients[readers[0].name], []).append(name)
    chosen = []
    for patient in chance.permutation(sorted(by_patient)).tolist()[:number]:
        name = str(chance.choice(by_patient[patient]))
        start, size = chance.random(), len(volumes[name])
        if size > gap:
            scans = [reader.read() for reader in volumes[name]]
            first = int(start * min(gap, size - gap))
            labelled = list(range(first, size, gap))
            images = [scan.image for scan in scans]
            chosen.append(Drawn(name, images, [scan.masks for scan in scans], labelled))
    return chosen


def by_distance(volume: Drawn) -> Iterator[Masks]:
    """Yield the tested slices by signed distances."""
    for before, place, after in volume.tested:
        share = (place - before) / (after - before)
        yield between(volume.masks[before], volume.masks[after], share)


def by_itk(volume: Drawn) -> Iterator[Masks]:
    """Yield the tested slices by ITK's contours; classes exclude each other."""
    import itk  # its import takes seconds, and other benchmarks need only the volumes

    classes = len(volume.masks[0])
    stack = np.zeros((len(volume.masks), *volume.images[0].shape), np.uint16)
    for place in volume.labelled:
        for number, mask in enumerate(volume.masks[place], 1):
            stack[place][mask] = number
    across = 2  # ITK counts axes from the last
    filled = itk.array_from_image(
        itk.morphological_contour_interpolator(itk.image_from_array(stack), axis=across)
    )
    for _, place, _ in volume.tested:
        yield np.stack([filled[place] == number for number in range(1, classes + 1)])


def by_network(volumes: Sequence[Drawn], seed: int) -> list[list[Masks]]:
    """Return each volume's tested slices by the network of a round."""
    pairs = [(v.images[place], v.masks[place]) for v in volumes for place in v.labelled]
    config = replace(default_config("cpu", len(volumes[0].masks[0])), seed=seed)
    fitted = fit([image for image, _ in pairs], [mask for _, mask in pairs], config)
    return [
        [p > 0.5 for p in predict(fitted, [v.images[place] for _, place, _ in v.tested])]
        for v in volumes
    ]


def scores(volume: Drawn, found: Sequence[Masks]) -> list[float]:
    """Return the mean Dice of a volume's tested slices, of the drawn ones, and of each class."""
    truth = [volume.masks[place] for _, place, _ in volume.tested]
    whole = [MAIN.of_scan(*pair) for pair in zip(found, truth, strict=True)]
    shown = [score for score, mask in zip(whole, truth, strict=True) if mask.any()]
    classes = np.array([MAIN.of_labels(*pair) for pair in zip(found, truth, strict=True)])
    return [_mean(whole), _mean(shown), *(_mean(classes[:, c]) for c in range(classes.shape[1]))]


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else float("nan")


def main() -> None:
    """Print a line for each seed, gap, volume and method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--volumes", type=int, default=6)
    parser.add_argument("--gaps", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    dataset = datasets.find(asked.directory, max_pixels=MOST_PIXELS)
    lines = csv.writer(sys.stdout)
    fixed = ["set", "volumes", "seed", "gap", "volume", "method", "tested", "dice", "drawn"]
    lines.writerow([*fixed, *dataset.labels])
    for seed in asked.seeds:
        for gap in asked.gaps:
            volumes = drawn(dataset, asked.volumes, gap, seed)
            for volume, network in zip(volumes, by_network(volumes, seed), strict=True):
                methods = {
                    "distance": list(by_distance(volume)),
                    "itk": list(by_itk(volume)),
                    "network": network,
                }
                for method, found in methods.items():
                    means = [f"{score:.4f}" for score in scores(volume, found)]
                    key = [asked.directory.name, asked.volumes, seed, gap, volume.name, method]
                    lines.writerow([*key, len(volume.tested), *means])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
