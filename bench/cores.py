"""Measure what trainings side by side gain over trainings that take turns with all cores.

    .venv/bin/python -m bench.cores DIR

Question: a refinement trains several networks. Is it quicker to train them at the same time, each
with its share of the cores, than one after the other with all cores in each operation?

Ruler: seconds by the clock of `--trainings` trainings of `--steps` steps on 10 scans, with the
settings of a round on this machine; both sides in turn, `--repeats` times; median ratio. Refuted
if side by side takes more than 0.8 of the time. DIR holds images/ and masks/.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.training import read
from model.fitted import Fitted, TrainConfig
from model.recipes import default_config
from model.side_by_side import cores
from model.training import fit

LABELS = 10


def one_after_the_other(jobs: Sequence[Callable[[], Fitted]]) -> None:
    """Run the jobs as one thread does that uses all cores in each operation."""
    for job in jobs:
        job()


def side_by_side(jobs: Sequence[Callable[[], Fitted]]) -> None:
    """Run the jobs as a refinement does."""
    with cores(share=True) as together:
        together.each(jobs)


def main() -> None:
    """Print the seconds of both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trainings", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    scans, masks = read(given.folder)
    config: TrainConfig = replace(default_config("cpu", 1), steps=given.steps)
    jobs = [
        partial(fit, scans[:LABELS], masks[:LABELS], replace(config, seed=seed))
        for seed in range(given.trainings)
    ]
    waiting = os.environ.get("OMP_WAIT_POLICY", "not set")
    print(f"{torch.get_num_threads()} threads, OMP_WAIT_POLICY {waiting}")
    ratios = []
    for _ in range(given.repeats):
        seconds = []
        for run in (one_after_the_other, side_by_side):
            began = time.perf_counter()
            run(jobs)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[1] / seconds[0])
        print(f"one after the other {seconds[0]:.1f} s, side by side {seconds[1]:.1f} s")
    print(f"side by side takes {np.median(ratios):.2f} of the time")


if __name__ == "__main__":
    main()
