"""What half of the decoder saves: a step of training, and the prediction of a pool.

    .venv/bin/python -m bench.decoders DIR

DIR is as for bench.overhead. The network for CPUs, which draws at half the resolution, is compared
with its baseline, the same network with the whole decoder. Both take turns, round after round, on
one thread; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from bench.overhead import LABELS, at_working_size, compare, pool_seconds, step_seconds
from bench.training import read
from model.recipes import default_config
from model.registry import ATTENTION_UNET, AUTO
from model.training import fit

NETWORKS = (AUTO, ATTENTION_UNET)


def main() -> None:
    """Print the seconds of both networks and their ratio, with its range over rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images, masks = at_working_size(*read(asked.directory))
    some = images[:LABELS], masks[:LABELS]
    configs = [
        replace(default_config("cpu", 1, network=name), steps=asked.steps, adapt=False)
        for name in NETWORKS
    ]
    models = [fit(*some, replace(config, steps=2)) for config in configs]
    rounds = range(asked.rounds)
    steps = [[step_seconds(*some, config) for config in configs] for _ in rounds]
    pools = [[pool_seconds(model, images) for model in models] for _ in rounds]
    compare("step", ("half", "whole"), steps)
    compare(f"pool of {len(images)}", ("half", "whole"), pools)


if __name__ == "__main__":
    main()
