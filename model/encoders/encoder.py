"""The interface of encoders: images of any size in, vectors of one length out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Scan = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]

SIZE = 224
BATCH = 8


@dataclass(frozen=True)
class Part:
    """One network, or one other description of a scan.

    Attributes:
        dim: Length of its vector.
        forward: Maps RGB images in [0, 1], shape (n, 3, size, size), to vectors (n, dim).
        size: Side of the square that every image is resized to, in pixels. Images are squeezed
            and not cropped, because the edge of a scan may matter.
        resampling: Filter for resizing images.
    """

    dim: int
    forward: Callable[[Floats], Floats]
    size: int = SIZE
    resampling: Image.Resampling = Image.Resampling.BILINEAR

    def encode(self, images: Sequence[Scan]) -> Floats:
        """Return one vector per image, shape (n, dim)."""
        vectors = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), BATCH):
            batch = [self._square(image) for image in images[start : start + BATCH]]
            vectors[start : start + BATCH] = self.forward(np.stack(batch))
        return vectors

    def _square(self, image: Scan) -> Floats:
        """Return an image as a square RGB image, shape (3, size, size)."""
        channels: Floats = np.moveaxis(np.atleast_3d(image), 2, 0).astype(np.float32, order="C")
        resized = [
            np.asarray(Image.fromarray(channel).resize((self.size, self.size), self.resampling))
            for channel in channels
        ]
        # Bicubic interpolation overshoots black and white at sharp edges.
        inside = np.clip(np.stack(resized), np.float32(0), np.float32(1))
        return np.broadcast_to(inside, (3, self.size, self.size))


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder.

    Attributes:
        name: Of the encoder, with a mark of its weights.
        parts: An embedding holds their vectors side by side, in this order.
        substitution: The reason if this encoder replaces the preferred encoder, else "".
        note: A further sentence for the log.
    """

    name: str
    parts: tuple[Part, ...]
    substitution: str = ""
    note: str = ""

    @property
    def widths(self) -> tuple[int, ...]:
        """The length of each part's vector; `model.projection` brings the parts to one scale."""
        return tuple(part.dim for part in self.parts)

    @property
    def dim(self) -> int:
        """The length of an embedding."""
        return sum(self.widths)

    @property
    def substituted(self) -> bool:
        """Whether this encoder replaces the preferred encoder."""
        return bool(self.substitution)

    def encode(self, images: Sequence[Scan]) -> Floats:
        """Return one embedding per image, shape (n, dim).

        Args:
            images: Arrays of shape (h, w) or (h, w, 3), any size, floats in [0, 1].
        Raises:
            ValueError: If an image has another shape or type, or values outside [0, 1].
        """
        for image in images:
            _check(image)
        return np.hstack([part.encode(images) for part in self.parts])


def _check(image: Scan) -> None:
    if image.ndim not in (2, 3) or 0 in image.shape or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"image has shape {image.shape}; give (h, w) or (h, w, 3)")
    if not (np.issubdtype(image.dtype, np.floating) and image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"image has type {image.dtype} and values from {image.min()} to {image.max()}; scale "
            "it to floats in [0, 1]"
        )
