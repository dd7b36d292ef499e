"""Let a model predict scans: every page of each, with a bounded number of pages in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from backend.errors import ImageError
from backend.imaging.scan_cache import Scan
from model import inference, training
from model.ensemble import Ensemble

Pixels = npt.NDArray[np.float32]
Predicted = tuple[int, Scan, list[Pixels]]  # task id, scan, and (c, h, w) of each page

# Pages of up to 256 x 256 pixels at once; fewer if they are larger. A batch that does not fit into
# the memory of a GPU is divided.
BATCH, GPU_BATCH = 16, 128


def predicted(
    fitted: training.Fitted | Ensemble,
    scans: Iterable[tuple[int, Scan | ImageError]],
    device: str,
) -> Iterator[Predicted]:
    """Yield the readable scans with the probabilities of each page; memory holds a batch at a time.

    Args:
        fitted: The model.
        scans: Scans, or why they cannot be read, by task id.
        device: "cpu" or another, on which the model runs.
    """
    pages = BATCH if device == "cpu" else GPU_BATCH
    most = max(pages * 256**2 // max(fitted.config.image_size, 256) ** 2, 1)
    batch: list[tuple[int, Scan]] = []
    for task_id, scan in scans:
        if not isinstance(scan, ImageError):
            batch.append((task_id, scan))
        if sum(len(each.pages) for _, each in batch) >= most:
            yield from _of_batch(fitted, batch, most)
            batch = []
    yield from _of_batch(fitted, batch, most)


def _of_batch(
    fitted: training.Fitted | Ensemble, batch: Sequence[tuple[int, Scan]], most: int
) -> Iterator[Predicted]:
    images = [page for _, scan in batch for page in scan.pages]
    predictions = inference.predict(fitted, images, batch_size=most)
    for task_id, scan in batch:
        yield task_id, scan, [next(predictions) for _ in scan.pages]
