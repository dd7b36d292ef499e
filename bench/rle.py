"""Time our brush RLE against label_studio_sdk.converter.brush, in one run: python -m bench.rle."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from label_studio_sdk.converter import brush

from model import masks

SIZE = 1024


def best_of(repeats: int, call: Callable[[], object]) -> float:
    """Return the least wall time of `repeats` calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print milliseconds of both and their ratio for a disc and for 5 % speckle."""
    y, x = np.ogrid[:SIZE, :SIZE]
    disc = np.hypot(y - SIZE / 2, x - SIZE / 2) < SIZE / 3
    speckled = disc ^ (np.random.default_rng(0).random((SIZE, SIZE)) < 0.05)
    print(f"{SIZE} x {SIZE}        ours ms    SDK ms  ratio")
    for name, mask in (("disc", disc), ("5 % speckle", speckled)):
        bytes_255 = mask.astype(np.uint8) * 255
        rle = masks.encode(mask)
        assert rle == brush.mask2rle(bytes_255)  # type: ignore[no-untyped-call]
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "encode": (partial(masks.encode, mask), partial(brush.mask2rle, bytes_255)),
            "decode": (partial(masks.decode, rle, SIZE, SIZE), partial(brush.decode_rle, rle)),
        }
        for verb, (ours, theirs) in pairs.items():
            mine, sdk = best_of(5, ours) * 1000, best_of(3, theirs) * 1000
            print(f"{name:12} {verb:7} {mine:8.1f} {sdk:9.1f} {sdk / mine:6.1f}")


if __name__ == "__main__":
    main()
