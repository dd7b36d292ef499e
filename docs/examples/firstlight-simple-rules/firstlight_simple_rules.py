"""A cold start, an acquisition and an encoder, each in a few lines."""

from __future__ import annotations

import numpy as np

from model.acquisition.strategy import Acquisition, Array
from model.cold_start.strategy import Choice, Pool, Strategy, Words
from model.encoders import Floats, Part

BINS = 32


def outermost(pool: Pool) -> Choice:
    """Return the scans farthest from the middle of the map first, untouched groups in front."""
    distance = np.linalg.norm(pool.points - pool.points.mean(axis=0), axis=1)
    rows = np.argsort(-distance, kind="stable")
    order = pool.turns().first(rows[~pool.labelled[rows]])
    return Choice(order, len(order), pool.clustering)


OUTERMOST = Strategy(outermost, Words(opening="far out on the map", later="far out on the map"))


class Moderate(Acquisition):
    """Scans of median uncertainty first: the most uncertain may be scans that nobody can draw."""

    words = "uncertainty {uncertainty:.2f}, near the median"

    def utility(self) -> Array:
        """Return the score of every candidate, shape (candidates,)."""
        return -np.abs(self.state.uncertainty - np.median(self.state.uncertainty))


def histogram(device: str) -> Part:
    """Return the encoder; the device is for encoders with a network."""
    return Part(dim=BINS, forward=_histograms, size=64)


def _histograms(images: Floats) -> Floats:
    """Return the share of pixels in each bin of grey, shape (n, BINS), for (n, 3, h, w)."""
    grey = images.mean(axis=1).reshape(len(images), -1)
    counts = [np.histogram(scan, bins=BINS, range=(0, 1))[0] for scan in grey]
    return (np.array(counts, np.float32) / grey.shape[1]).astype(np.float32)
