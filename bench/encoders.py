"""Time the encoders, onnxruntime against torch eager: python -m bench.encoders."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np

from model import encoders
from model.encoders import running

BATCHES = 6


def images_per_second(forward: Callable[[encoders.Floats], encoders.Floats]) -> str:
    """Return images per second of wall time and of processor time, in batches of encoders.BATCH."""
    shape = (encoders.BATCH, 3, 224, 224)
    pictures = np.random.default_rng(0).random(shape, dtype=np.float32)
    forward(pictures)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        forward(pictures)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count = BATCHES * encoders.BATCH
    return f"{count / wall:6.1f} a second, {count / cpu:6.1f} a processor second"


def timed_load(name: str, cache_dir: str) -> encoders.Encoder:
    """Return an encoder, and print the time to load it."""
    wall, cpu = time.perf_counter(), time.process_time()
    encoder = encoders.load(name, cache_dir=cache_dir)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:20} load        {wall:6.2f} s, {cpu:6.2f} processor seconds")
    return encoder


def main() -> None:
    """Print the load times, first and from the cache, and images per second of both runtimes."""
    with tempfile.TemporaryDirectory() as cache_dir:
        for name in ("efficientnet-lite0", "resnet50-random"):
            timed_load(name, cache_dir)
            encoder = timed_load(name, cache_dir)
            print(f"{name:20} onnxruntime {images_per_second(encoder.parts[0].forward)}")
            eager = running.in_torch(encoders.network(name), "cpu")
            print(f"{name:20} torch       {images_per_second(eager)}")


if __name__ == "__main__":
    main()
