"""What selection gains in a project: labels that a rule chose against labels drawn at random.

Scans that `random_fraction` drew at random are a control arm. Networks that were trained on equal
numbers of chosen and of control labels are compared on the same held-out scans.

Each repeat trains on half of the labels of each arm. The spread between halves shows how far the
result depends on the labels that an arm happens to hold: the mean of a random half of n values
varies as much between halves as the mean of all n values varies between draws of n.

Source: half samples for the variance, McCarthy 1969, https://doi.org/10.2307/1402116.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import resampling
from model.resampling import Interval

Floats = NDArray[np.float64]

LEAST_LABELS = 10  # of each arm; a network then has 5, from which on drafts are shown too
LEAST_HELD_OUT = 10  # groups of scans
REPEATS = 8  # even: halves come in pairs


class Repeat(NamedTuple):
    """The scans of two networks, equally many for both."""

    chosen: list[int]
    control: list[int]


def is_enough(chosen: int, control: int, held_out: int) -> bool:
    """Return whether there is anything to compare.

    Args:
        chosen, control: Number of training labels of each arm.
        held_out: Number of groups of held-out scans.
    """
    return min(chosen, control) >= LEAST_LABELS and held_out >= LEAST_HELD_OUT


def repeats(
    chosen: Sequence[int], control: Sequence[int], *, count: int = REPEATS, seed: int = 0
) -> list[Repeat]:
    """Return the scans of each repeat: a random half of each arm, and then the other half.

    Args:
        chosen: Scans that a rule chose, in the order of their labels. Only the first of them count,
            as many as there are controls: these are the scans that the rule chooses for a network
            with so many labels.
        control: Scans that were drawn at random, in the order of their labels.
        count: Number of repeats, even.
        seed: Of the halves.
    """
    size = min(len(chosen), len(control))
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(count // 2):
        arms = [rng.permutation(arm[:size]).tolist() for arm in (chosen, control)]
        for start in (0, size // 2):
            halves.append(Repeat(*(arm[start : start + size // 2] for arm in arms)))
    return halves


def gain(differences: Floats, *, seed: int = 0) -> Interval:
    """Return the mean gain of the chosen labels with its 95 % interval over scans and repeats.

    The repeats count with the spread of a single repeat (see the head of this module), and by
    Student's t, because they are few.

    Args:
        differences: Dice with chosen labels minus Dice with control labels, of each repeat on each
            group of held-out scans, shape (repeats, groups), at least 2 of both.
        seed: Of the interval.
    """
    of_groups, of_repeats = differences.mean(axis=0), differences.mean(axis=1)
    rng = np.random.default_rng(seed)
    over_repeats = float(of_repeats.std(ddof=1)) * rng.standard_t(
        len(of_repeats) - 1, resampling.DRAWS
    )
    drawn = resampling.means(of_groups, rng) + over_repeats
    return resampling.around(float(differences.mean()), drawn)
