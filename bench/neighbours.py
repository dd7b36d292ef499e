"""Measure what the neighbouring slices as channels of the network add: python -m bench.neighbours

    python -m bench.neighbours DIR --volumes 9 --seeds 0 1 2

DIR holds volumes, as for `simulate` (docs/experiments.md). A seed draws 17 patients and one volume
of each. Every fifth slice of the first nine is labelled; every second slice of the other eight is
the test. The network trains as in a round: on the slice alone, and on the slice between its two
neighbours, which take the three channels of a colour picture. The first and the last slice of a
volume are their own neighbours.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.experiments import datasets
from bench.between import Drawn, drawn
from bench.refining import EVERY, MOST_PIXELS
from model.evaluation import MAIN
from model.inference import predict
from model.preprocessing import Image
from model.recipes import default_config
from model.training import fit

TESTED = 8


def inputs(volume: Drawn, places: Sequence[int], neighbours: int) -> list[Image]:
    """Return slices as the network sees them: (h, w), or (h, w, 3) with a neighbour each side."""
    if not neighbours:
        return [volume.images[place] for place in places]
    last = len(volume.images) - 1
    around = [[max(place - 1, 0), place, min(place + 1, last)] for place in places]
    return [np.stack([volume.images[at] for at in each], axis=2) for each in around]


def measure(volumes: Sequence[Drawn], others: Sequence[Drawn], neighbours: int, seed: int) -> float:
    """Return the mean Dice of the tested slices of the other volumes."""
    images = [one for volume in volumes for one in inputs(volume, volume.labelled, neighbours)]
    masks = [volume.masks[place] for volume in volumes for place in volume.labelled]
    config = replace(default_config("cpu", len(masks[0])), seed=seed)
    fitted = fit(images, masks, config)
    scores = []
    for volume in others:
        places = range(0, len(volume.images), 2)
        found = predict(fitted, inputs(volume, places, neighbours))
        truth = (volume.masks[place] for place in places)
        scores += [MAIN.of_scan(p > 0.5, mask) for p, mask in zip(found, truth, strict=True)]
    return float(np.mean(scores))


def main() -> None:
    """Print a line for each seed and number of neighbours."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--volumes", type=int, default=9)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    dataset = datasets.find(asked.directory, max_pixels=MOST_PIXELS)
    print("set,volumes,seed,neighbours,dice", flush=True)
    for seed in asked.seeds:
        volumes = drawn(dataset, asked.volumes + TESTED, EVERY, seed)
        for neighbours in (0, 1):
            dice = measure(volumes[:-TESTED], volumes[-TESTED:], neighbours, seed)
            line = f"{asked.directory.name},{asked.volumes},{seed},{neighbours},{dice:.4f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
