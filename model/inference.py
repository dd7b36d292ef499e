"""Run a trained network on scans: probabilities and attention at each scan's own size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.attention_unet import AttentionUnet, attention_maps
from model.ensemble import Ensemble
from model.fitted import Fitted
from model.polarity import aligned
from model.preprocessing import Image, prepare, resized, restore
from model.uncertainty import Probabilities, boundary_entropy, entropy

__all__ = ["attention", "boundary_entropy", "entropy", "predict", "probabilities_of"]


def predict(
    model: Fitted | Ensemble, images: Iterable[Image], *, batch_size: int = 8
) -> Iterator[Probabilities]:
    """Yield each scan's probabilities in turn, shape (c, h, w) at the scan's own size.

    Only one batch is taken from `images` at a time, so a pool may be larger than memory. A batch
    that does not fit into the device's memory is divided.

    Args:
        model: The trained network, or several, whose probabilities are averaged.
        images: Scans of shape (h, w) or (h, w, 3), values in [0, 1], each of any size.
        batch_size: Number of scans that the network processes at once, at least 1.

    Raises:
        ValueError: If an image cannot be prepared, or batch_size is below 1.
        RuntimeError: If the device cannot hold a single scan.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: expected at least 1")
    pool = iter(images)
    while batch := list(islice(pool, batch_size)):
        predictions = [_of_batch(member, batch) for member in model.members]
        for each in zip(*predictions, strict=True):
            yield each[0] if len(each) == 1 else np.mean(each, axis=0)


def _of_batch(fitted: Fitted, batch: Sequence[Image]) -> Iterator[Probabilities]:
    scans = aligned(batch, fitted.reference)
    squares = probabilities_of(fitted.network, prepare(scans, fitted.config.image_size))
    runs = [(shape, len(list(run))) for shape, run in groupby(i.shape[:2] for i in batch)]
    parts = torch.split(squares, [length for _, length in runs])
    for (shape, _), part in zip(runs, parts, strict=True):
        yield from restore(part, shape).numpy()


def attention(fitted: Fitted, image: Image) -> NDArray[np.float32]:
    """Return the coefficients of each attention gate for a scan, coarse to fine, shape (g, h, w).

    Values lie in [0, 1], at the scan's own size; g is 0 if the network has no skips.

    Args:
        fitted: A trained attention U-Net.
        image: Shape (h, w) or (h, w, 3), values in [0, 1].

    Raises:
        ValueError: If the image cannot be prepared.
    """
    network, size = cast(AttentionUnet, fitted.network), fitted.config.image_size
    device = next(network.parameters()).device
    prepared = prepare(aligned([image], fitted.reference), size)
    gates = attention_maps(network, prepared.to(device))
    squares = [resized(gate[0].float().cpu(), (size, size)) for gate in gates]
    whole = torch.cat([torch.zeros(0, size, size), *squares])
    maps: NDArray[np.float32] = restore(whole, image.shape[:2]).numpy()
    return maps


@torch.inference_mode()
def probabilities_of(network: nn.Module, prepared: Tensor) -> Tensor:
    """Return the probabilities of prepared scans on the CPU, shape (n, classes, size, size).

    If they do not fit into the device's memory together, they are computed in two halves.

    Raises:
        RuntimeError: If a single scan does not fit.
    """
    network.eval()
    device = next(network.parameters()).device
    try:
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            logits = network(prepared.to(device, memory_format=torch.channels_last))
        return torch.sigmoid(logits.float()).cpu()
    except RuntimeError as error:
        if len(prepared) == 1 or not is_out_of_memory(error):
            raise
    middle = len(prepared) // 2
    return torch.cat(
        [probabilities_of(network, half) for half in (prepared[:middle], prepared[middle:])]
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch failed for want of memory; on a CPU and on MPS only words say so."""
    words = ("can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in words)
