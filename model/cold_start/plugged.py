"""Cold starts of other packages: an entry point names a `Strategy`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields, replace

import numpy as np

from model import plugins
from model.clustering import Clustering
from model.cold_start.strategy import Choice, Pool, Strategy, Words

GROUP = plugins.COLD_STARTS


def choose(name: str, pool: Pool) -> Choice:
    """Return the choice of a plugin's strategy, with its words.

    Raises:
        PluginError: If the plugin fails, or its choice is no order of the unlabelled rows.
    """
    with plugins.guarded(GROUP, name):
        strategy = plugins.load(GROUP, name)
        plugins.expect(isinstance(strategy, Strategy), GROUP, name, strategy, "a Strategy")
        choice = strategy.choose(deepcopy(pool))  # what it changes there is lost
        plugins.expect(isinstance(choice, Choice), GROUP, name, choice, "a Choice")
        choice = replace(choice, words=choice.words or strategy.words, width=float(choice.width))
        plugins.expect(_is_order(choice, pool), GROUP, name, choice, "every unlabelled row once")
        plugins.expect(
            _is_clustering(choice.clustering, len(pool.points)), GROUP, name, choice.clustering,
            "a Clustering of all scans",
        )  # fmt: skip
        _try_words(choice.words)
        checked: Choice = choice
        return checked


def _is_order(choice: Choice, pool: Pool) -> bool:
    order, rows = np.asarray(choice.order), np.flatnonzero(~pool.labelled)
    same = order.shape == rows.shape and np.array_equal(np.sort(order), rows)
    return same and order.dtype.kind == "i" and 0 <= int(choice.picked) <= len(order)


def _is_clustering(found: object, scans: int) -> bool:
    if not isinstance(found, Clustering) or found.clusters.shape != (scans,):
        return False
    inside = not scans or 0 <= found.clusters.min() <= found.clusters.max() < found.k
    return bool(inside) and found.medoids.shape == (found.k,)


def _try_words(words: Words | None) -> None:
    """Raise if the words cannot be filled in."""
    for part in fields(Words):
        getattr(words, part.name).format(cluster=0, size=1, alike="")
