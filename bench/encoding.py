"""Time encoding from image files, decoding included: python -m bench.encoding DIR [--count N].

Ours is the production path: backend.imaging.scan_cache reads, decodes, shrinks and keeps the files,
some ahead, and they are embedded as in a round. The baseline is a plain loop over the same files
with Pillow to RGB at 224 pixels and torch, one file at a time and in batches of 8. All run a
ResNet-50 with the same random weights, warmed up. They take turns, 16 files each, so that other
work on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backend.errors import ImageError
from backend.imaging.decoder_process import Decoders
from backend.imaging.scan_cache import WORKING_SIZE, Scans
from backend.settings import tame_threads
from model import encoders

Embed = Callable[[Sequence[Path]], encoders.Floats]
NAME = "resnet50-random"
TURN = 16
MOST_PIXELS = 100_000_000


def ours(encoder: encoders.Encoder, folder: Path) -> Embed:
    """Return a function that embeds files like production, with decoded scans in `folder`."""
    scans = Scans(
        lambda url, _: Path(url).read_bytes(),
        folder,
        Decoders(),
        longest=WORKING_SIZE,
        max_pixels=MOST_PIXELS,
    )

    def embed(files: Sequence[Path]) -> encoders.Floats:
        found = [scan for _, scan in scans.many((i, str(file)) for i, file in enumerate(files))]
        return encoder.encode([scan.image for scan in found if not isinstance(scan, ImageError)])

    return embed


def baseline(batch: int) -> Embed:
    """Return a function that embeds files in a plain torch loop."""
    import torch

    network = encoders.network(NAME)

    def embed(files: Sequence[Path]) -> encoders.Floats:
        with torch.inference_mode():
            batches = [
                network(torch.from_numpy(np.stack([picture(file) for file in part])))
                for part in parts(files, batch)
            ]
            return torch.cat(batches).numpy()

    return embed


def picture(file: Path) -> encoders.Floats:
    """Return a file as RGB in [0, 1], shape (3, 224, 224)."""
    with Image.open(file) as image:
        small = image.convert("RGB").resize((224, 224))
    return np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255)


def parts(files: Sequence[Path], size: int) -> list[Sequence[Path]]:
    """Return the files in groups of `size`; the last group may be smaller."""
    return [files[start : start + size] for start in range(0, len(files), size)]


def seconds(embed: Embed, files: Sequence[Path]) -> float:
    """Return the wall time of embedding files; exit if a file cannot be read."""
    start = time.perf_counter()
    if len(embed(files)) != len(files):
        raise SystemExit("some files are no readable images: remove them from the folder")
    return time.perf_counter() - start


def main() -> None:
    """Print images per second of ours and the baselines, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=64)
    arguments = parser.parse_args()
    files = sorted(arguments.directory.glob("*.png"))[: arguments.count]
    if not files:
        raise SystemExit(f"{arguments.directory} holds no PNG files: give a folder with PNG files")
    tame_threads()
    encoder = encoders.load(NAME)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "ours": ours(encoder, Path(folder, "kept")),
            "plain loop": baseline(1),
            f"batches of {encoders.BATCH}": baseline(encoders.BATCH),
        }
        for embed in (ours(encoder, Path(folder, "warm")), *list(ways.values())[1:]):
            embed(files[:TURN])
        spent = dict.fromkeys(ways, 0.0)
        for part in parts(files, TURN):
            for name, embed in ways.items():
                spent[name] += seconds(embed, part)
    for name, wall in spent.items():
        ratio = f"{wall / spent['ours']:6.2f} times ours' time"
        print(f"{name:12} {len(files) / wall:6.1f} images a second, {ratio}")


if __name__ == "__main__":
    main()
