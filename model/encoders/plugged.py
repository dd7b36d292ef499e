"""Encoders of other packages: an entry point names a function, from the device to a `Part`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from model import plugins
from model.encoders.encoder import Floats, Part
from model.registry import JOINT

GROUP = plugins.ENCODERS


@cache
def load(name: str, device: str) -> tuple[str, Part]:
    """Return a plugin's encoder: its name, with the release of its package, and itself.

    A new release may give other vectors, so its embeddings are kept apart.

    Raises:
        PluginError: If the plugin fails, or encodes a black and a grey image in an unexpected way.
    """
    with plugins.guarded(GROUP, name):
        part = plugins.load(GROUP, name)(device)
        plugins.expect(isinstance(part, Part), GROUP, name, part, "a Part")
        checked = replace(part, forward=_checked(name, part.forward, part.dim))
        checked.encode([np.zeros((8, 8), np.float32), np.full((8, 12, 3), 0.5, np.float32)])
    mark = plugins.version(GROUP, name).replace(JOINT, "-")
    return f"{name}-{mark}" if mark else name, checked


def _checked(
    name: str, forward: Callable[[Floats], Floats], dim: int
) -> Callable[[Floats], Floats]:
    """Return a plugin's function that is set aside once it fails."""

    def encode(images: Floats) -> Floats:
        try:
            with plugins.guarded(GROUP, name):
                vectors: Floats = np.asarray(forward(images), np.float32)
                fine = vectors.shape == (len(images), dim) and np.isfinite(vectors).all()
                expected = f"finite vectors of shape ({len(images)}, {dim})"
                plugins.expect(fine, GROUP, name, vectors, expected)
                return vectors
        except plugins.PluginError as error:
            plugins.set_aside(GROUP, name, error)
            raise

    return encode
