"""Time our brush RLE, and reading the most expensive annotations: python -m bench.rle.

The first table compares our code with label_studio_sdk.converter.brush in the same run.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from backend.label_studio import labels
from model import masks

SIZE = 1024
LABELS = 20
CONFIG = labels.parse(
    '<View><Image name="image" value="$image"/>'
    + "".join(
        f'<{kind}Labels name="{kind}" toName="image">'
        + "".join(f'<Label value="{number}"/>' for number in range(LABELS))
        + f"</{kind}Labels>"
        for kind in ("Brush", "Polygon")
    )
    + "</View>"
)


def best_of(repeats: int, call: Callable[[], object]) -> float:
    """Return the least wall time of `repeats` calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def region(kind: str, size: tuple[int, int], row: int, **value: Any) -> dict[str, Any]:
    """Return a region of a label on an image of a size (h, w)."""
    return {
        "id": f"{kind} {row}",
        "to_name": "image",
        "type": f"{kind}labels",
        "original_height": size[0],
        "original_width": size[1],
        "value": value | {f"{kind}labels": [str(row % LABELS)]},
    }


def brush_region(mask: NDArray[np.bool_], row: int) -> dict[str, Any]:
    """Return a brush region."""
    height, width = mask.shape
    return region("brush", (height, width), row, format="rle", rle=masks.encode(mask))


def disc(size: tuple[int, int], radius: float) -> NDArray[np.bool_]:
    """Return a disc in the middle of an image of a size (h, w)."""
    y, x = np.ogrid[: size[0], : size[1]]
    inside: NDArray[np.bool_] = np.hypot(y - size[0] / 2, x - size[1] / 2) < radius
    return inside


def examples() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield annotations by name: realistic ones, and extreme ones that only an attacker sends."""
    scan, mammogram = (3000, 2500), (9000, 6700)
    stroke = brush_region(disc(scan, 300), 0)["value"]["rle"]
    yield (
        "2,500 x 3,000, 20 labels, 60 brush regions",
        [region("brush", scan, row, format="rle", rle=stroke) for row in range(60)],
    )
    yield "60 megapixels, 3 brush regions", [brush_region(disc(mammogram, 2500), 0)] * 3
    corners = [[50 + np.cos(a), 50 + np.sin(a)] for a in np.linspace(0, 6, 20)]
    yield (
        "1,000 small polygons",
        [region("polygon", scan, row, points=corners) for row in range(1000)],
    )
    empty = brush_region(np.zeros((10_000, 10_000), bool), 0)
    yield "500 empty brush regions that claim 100 megapixels", [empty] * 500
    noise = np.random.default_rng(0).random((2000, 2000)) < 0.5
    yield "1 brush region of noise, 4 megapixels", [brush_region(noise, 0)]


def time_annotations() -> None:
    """Print the CPU seconds and the peak of memory to read each annotation at three sizes."""
    print(f"\n{'annotation':52} {'size':>12} {'CPU s':>8} {'peak MB':>8}")
    for name, result in examples():
        for size in ((8, 8), (256, 214), (3000, 2500)):
            start = time.process_time()
            labels.masks(result, CONFIG, size=size)
            seconds = time.process_time() - start
            tracemalloc.start()
            labels.masks(result[:20], CONFIG, size=size)
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            shown = f"{size[0]} x {size[1]}"
            print(f"{name:52} {shown:>12} {seconds:8.2f} {peak:8.0f}", flush=True)


def main() -> None:
    """Print ms of both and their ratio for a disc and for 5 % speckle, then the annotations."""
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
    time_annotations()


if __name__ == "__main__":
    main()
