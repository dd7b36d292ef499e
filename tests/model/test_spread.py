"""Slices far from the chosen ones of their volume come first, whatever the strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition, clustering, cold_start
from model.pool import Turns
from model.spread import FAR

Array = npt.NDArray[Any]

FEW = settings(max_examples=25)
EVERY_START = pytest.mark.parametrize("start", cold_start.STRATEGIES)
EVERY_ACQUISITION = pytest.mark.parametrize("rule", acquisition.STRATEGIES)

VOLUMES = np.repeat([3, 1, 2], [20, 9, 5])
PLACES = np.concatenate([np.arange(20), 5 * np.arange(9), 7 + np.arange(5)]).astype(float)
POINTS = np.random.default_rng(0).normal(size=(34, 2))
ONE = clustering.describe(POINTS, np.zeros(34, int))

volumes = st.lists(
    st.tuples(st.integers(0, 3), st.none() | st.integers(-20, 20), st.booleans()),
    min_size=1,
    max_size=24,
)


def started(start: str, labelled: Array | None = None) -> Array:
    return cold_start.select(
        POINTS, 30, strategy=start, coordinates=POINTS, clustering=ONE, labelled=labelled,
        groups=VOLUMES, places=PLACES,
    ).order  # fmt: skip


def gaps(groups: Array, places: Array, chosen: Array) -> Array:
    """The distance of each slice to the nearest chosen one, as a share of its volume's extent."""
    found = np.full(len(groups), np.inf)
    for row, (group, place) in enumerate(zip(groups, places, strict=True)):
        inside = places[groups == group]
        known = inside[np.isfinite(inside)]
        near = places[chosen & (groups == group)]
        if np.isfinite(place) and np.isfinite(near).any():
            found[row] = np.nanmin(np.abs(near - place)) / (np.ptp(known) or 1)
    return found


def check(order: Array, labelled: Array, groups: Array, places: Array) -> None:
    """A fresh volume comes first; then no slice nearer than half of the largest gap."""
    chosen = labelled.copy()
    for row in order:
        left = ~chosen
        fresh = left & ~np.isin(groups, groups[chosen])
        found = gaps(groups, places, chosen)
        known = left & np.isfinite(found)
        if fresh.any():
            assert fresh[row]
        elif known[row]:
            assert found[row] >= FAR * found[known].max() - 1e-9
        chosen[row] = True


@EVERY_START
def test_a_cold_start_opens_every_volume_and_then_takes_far_slices(start: str) -> None:
    order = started(start)

    assert sorted(order) == list(range(34))
    assert sorted(VOLUMES[order[:3]]) == [1, 2, 3]
    check(order[:30], np.zeros(34, bool), VOLUMES, PLACES)


@EVERY_START
def test_labelling_in_this_order_leaves_the_rest_in_order(start: str) -> None:
    whole = started(start)
    labelled = np.zeros(34, bool)
    labelled[whole[:9]] = True

    assert started(start, labelled)[:21].tolist() == whole[9:30].tolist()


@EVERY_ACQUISITION
def test_a_batch_takes_far_slices(rule: str) -> None:
    labelled = np.isin(np.arange(34), [2, 3, 22])
    uncertainty = np.random.default_rng(1).random(34)

    ranking = acquisition.rank(
        uncertainty, POINTS, labelled, strategy=rule, batch=12, groups=VOLUMES, places=PLACES,
        random_fraction=0.25,
    )  # fmt: skip

    assert sorted(ranking.order) == np.flatnonzero(~labelled).tolist()
    check(ranking.order[:12], labelled, VOLUMES, PLACES)


@FEW
@given(scans=volumes, scale=st.sampled_from([0.5, 1.0, 4.0]))
def test_single_steps_are_spread_in_any_unit(
    scans: list[tuple[int, int | None, bool]], scale: float
) -> None:
    groups, places, labelled = arrays(scans)
    order = walked(groups, places * scale + 3, labelled)

    check(order, labelled, groups, places)
    assert order.tolist() == walked(groups, places, labelled).tolist()


@FEW
@given(scans=volumes)
def test_equal_and_unknown_places_change_nothing(
    scans: list[tuple[int, int | None, bool]],
) -> None:
    groups, _, labelled = arrays(scans)
    rows = np.flatnonzero(~labelled)
    plain = Turns(groups, labelled).first(rows).tolist()

    for place in (np.nan, 4.0):
        places = np.full(len(groups), place)
        assert Turns(groups, labelled, places=places).first(rows).tolist() == plain


@FEW
@given(scans=volumes)
def test_the_rest_is_an_order_that_opens_fresh_volumes_first(
    scans: list[tuple[int, int | None, bool]],
) -> None:
    groups, places, labelled = arrays(scans)
    rows = np.flatnonzero(~labelled)
    order = Turns(groups, labelled, places=places).first(rows)
    fresh = sorted({*groups.tolist()} - {*groups[labelled].tolist()})

    assert sorted(order) == rows.tolist()
    assert sorted(groups[order[: len(fresh)]]) == fresh


def test_the_rest_halves_the_gaps_of_all_volumes() -> None:
    groups, places = np.repeat([0, 1], 9), np.tile(np.arange(9.0), 2)
    labelled = np.isin(np.arange(18), [4, 9])

    order = Turns(groups, labelled, places=places).first(np.flatnonzero(~labelled))

    assert order.tolist()[:4] == [17, 0, 8, 13]  # gaps of 8, then 4, 4 and 4 slices
    assert sorted(order[4:8]) == [2, 6, 11, 15]  # of 2
    assert sorted(order[8:]) == [1, 3, 5, 7, 10, 12, 14, 16]


def test_places_of_another_length_or_without_an_end_are_refused() -> None:
    for places in (np.zeros(33), np.full(34, np.inf)):
        with pytest.raises(ValueError, match="a number per scan"):
            acquisition.rank(np.zeros(34), POINTS, np.zeros(34, bool), places=places)


def arrays(scans: list[tuple[int, int | None, bool]]) -> tuple[Array, Array, Array]:
    groups, places, labelled = zip(*scans, strict=True)
    numbers = np.array([np.nan if place is None else place for place in places], float)
    return np.array(groups), numbers, np.array(labelled)


def walked(groups: Array, places: Array, labelled: Array) -> Array:
    """The order of single steps that always take the lowest row."""
    turns = Turns(groups, labelled, places=places)
    order = []
    while turns.left.any():
        order.append(int(np.argmax(turns.allowed)))
        turns.take(order[-1])
    return np.array(order, int)
