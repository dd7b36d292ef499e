"""Acquisitions of other packages: an entry point names a subclass of `Acquisition`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from model import plugins
from model.acquisition.strategy import Acquisition, Array

GROUP = plugins.ACQUISITIONS


class Ranked(Protocol):
    """What is checked of a ranking; the plugin had its hands on all of it."""

    @property
    def order(self) -> Array:
        """The rows, best first."""

    @property
    def utility(self) -> Array:
        """The score of each scan."""

    @property
    def uncertainty(self) -> Array:
        """The first of the two terms behind it."""

    @property
    def diversity(self) -> Array:
        """The second term."""

    @property
    def alpha(self) -> float:
        """The weight of the second term."""

    @property
    def width(self) -> float:
        """The width of a kernel."""


R = TypeVar("R", bound=Ranked)


def rule(name: str) -> type[Acquisition]:
    """Return the rule of a plugin.

    Raises:
        PluginError: If it cannot be imported, or is no subclass of `Acquisition`.
    """
    loaded = plugins.load(GROUP, name)
    fine = isinstance(loaded, type) and issubclass(loaded, Acquisition)
    plugins.expect(fine, GROUP, name, loaded, "a subclass of Acquisition")
    found: type[Acquisition] = loaded
    return found


def checked(name: str, rank: Callable[[type[Acquisition]], R]) -> R:
    """Return the ranking of a plugin's rule.

    Args:
        name: Of the plugin.
        rank: Returns the ranking of a rule.

    Raises:
        PluginError: If the plugin fails, or gives scores that are not finite.
    """
    with plugins.guarded(GROUP, name):
        loaded = rule(name)
        for words in (loaded.words, loaded.beyond):
            words.format(uncertainty=0.0, diversity=0.0, utility=0.0, alike="")
        ranking = rank(loaded)
        terms = (ranking.utility, ranking.uncertainty, ranking.diversity)
        shape = ranking.order.shape
        fine = all(of.shape == shape and np.isfinite(of).all() for of in terms)
        plugins.expect(fine, GROUP, name, ranking.utility, "scores without NaN or infinity")
        for number in (ranking.alpha, ranking.width):
            plugins.expect(isinstance(number, int | float), GROUP, name, number, "a number")
        return ranking
