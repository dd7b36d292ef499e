"""Every source gets its share, whatever the strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition, clustering, cold_start
from model.pool import Turns
from tests.model.planted import blobs

Array = npt.NDArray[Any]

FEW = settings(max_examples=25)
EVERY_START = pytest.mark.parametrize("start", cold_start.STRATEGIES)
EVERY_ACQUISITION = pytest.mark.parametrize("rule", acquisition.STRATEGIES)

SIZES = (80, 12, 8)
SOURCES = np.repeat([2, 0, 1], SIZES)  # their numbers say nothing
POINTS = np.random.default_rng(0).normal(size=(100, 2))
ONE = clustering.describe(POINTS, np.zeros(100, int))


def counts(order: Array) -> list[int]:
    """How many scans of each source, the largest source first."""
    return [int(np.sum(SOURCES[order] == number)) for number in (2, 0, 1)]


def started(start: str, budget: int, labelled: Array | None = None) -> Array:
    return cold_start.select(
        POINTS, budget, strategy=start, coordinates=POINTS, clustering=ONE, labelled=labelled,
        sources=SOURCES,
    ).order  # fmt: skip


@EVERY_START
def test_a_cold_start_gives_every_source_a_scan_the_smallest_first_and_then_its_share(
    start: str,
) -> None:
    order = started(start, 10)

    assert sorted(order) == list(range(100))
    assert SOURCES[order[:3]].tolist() == [1, 0, 2]
    assert counts(order[:10]) == [7, 2, 1]  # 8, 1.2, 0.8 of 10, rounded up for the small ones
    assert counts(order[:50]) == [40, 6, 4]


@EVERY_START
def test_labelling_in_this_order_leaves_the_rest_in_order(start: str) -> None:
    whole = started(start, 10)
    labelled = np.zeros(100, bool)
    labelled[whole[:4]] = True

    assert started(start, 10, labelled).tolist() == whole[4:].tolist()


@EVERY_START
def test_of_more_sources_than_picks_the_largest_come_first(start: str) -> None:
    assert counts(started(start, 2)[:2]) == [1, 1, 0]


@EVERY_ACQUISITION
def test_a_batch_brings_every_source_up_to_its_share(rule: str) -> None:
    labelled = np.arange(100) < 10  # all of the large source
    uncertainty = np.random.default_rng(1).random(100)

    ranking = acquisition.rank(
        uncertainty, POINTS, labelled, strategy=rule, batch=5, sources=SOURCES
    )

    assert SOURCES[ranking.order[:2]].tolist() == [1, 0]
    assert counts(ranking.order[:5]) == [1, 2, 2]
    assert sorted(ranking.order) == list(range(10, 100))


@EVERY_START
def test_scans_that_are_all_their_own_source_are_chosen_as_without_sources(start: str) -> None:
    points = blobs(3, 8)
    options: dict[str, Any] = {"strategy": start, "coordinates": points}

    plain = cold_start.select(points, 5, **options).order
    single = cold_start.select(points, 5, sources=np.arange(24), **options).order
    same = cold_start.select(points, 5, sources=np.zeros(24), **options).order

    assert single.tolist() == same.tolist() == plain.tolist()


def test_an_untouched_group_comes_before_the_turn_of_a_source() -> None:
    groups = np.array([0, 0, 0, 1, 2, 3])
    sources = np.array([0, 0, 0, 1, 1, 1])

    order = cold_start.select(
        np.zeros((6, 1)), 6, coordinates=np.arange(6.0)[:, None], groups=groups, sources=sources,
        strategy="random",
    ).order  # fmt: skip

    assert sorted(groups[order[:4]]) == [0, 1, 2, 3]


@FEW
@given(data=st.data(), n=st.integers(1, 12), picks=st.integers(0, 12))
def test_the_rest_in_one_step_comes_in_the_turns_of_single_steps(
    data: st.DataObject, n: int, picks: int
) -> None:
    groups, sources = (
        np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))) for _ in range(2)
    )
    groups += 4 * sources  # a patient of one hospital
    labelled = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    preference = np.array(data.draw(st.permutations(range(n))))
    once, single = (Turns(groups, labelled, sources, picks) for _ in range(2))
    rows = []
    for _ in range(int((~labelled).sum())):
        row = next(row for row in preference.tolist() if single.allowed[row])
        single.take(row)
        rows.append(row)

    order = once.first(preference[~labelled[preference]])

    assert sources[order].tolist() == sources[rows].tolist()
    assert order.tolist() == rows


def test_sources_of_another_number_of_scans_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a source per scan, \(4,\)"):
        cold_start.select(np.zeros((4, 2)), 2, coordinates=np.zeros((4, 2)), sources=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected a source per scan, \(4,\)"):
        acquisition.rank(np.zeros(4), np.zeros((4, 2)), np.zeros(4, bool), sources=np.zeros(3))
