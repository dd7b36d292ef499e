from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ConfigError
from backend.experiments import draws
from backend.experiments.draws import Draws
from backend.experiments.pools import Mixture
from backend.experiments.scans import Dataset
from tests.backend.experiments.recipes import recipe


def mixture(*scans: tuple[str, str, bool]) -> Mixture:
    """A mixture of (source, group, inverted); no test reads its pixels."""
    sources, groups, inverted = zip(*scans, strict=True)
    return Mixture(Dataset("pool", ("mask",), (), {}), sources, groups, inverted)


PLAIN, TURNED = ("a", "a", False), ("b", "b", False)
COPY = ("b", "b inverted", True)
TWO = mixture(*[PLAIN] * 10, *[TURNED] * 8, *[COPY] * 8)
PATIENTS = [*range(10), *[10 + n for n in range(8)] * 2]


def of_two(**changes: Any) -> Draws:
    sources = {"a": {"folder": "a", "pool": 6}, "b": {"folder": "b", "pool": 4, "inverted": 1}}
    return draws.plan(recipe(sources, **{"held_out": 2, **changes}), TWO, PATIENTS, 0)


def test_each_group_gets_its_number_in_the_pool_and_held_out() -> None:
    pool, held = of_two().of(0)
    assert Counter(TWO.groups[row] for row in pool) == {"a": 6, "b": 3, "b inverted": 1}
    assert Counter(TWO.groups[row] for row in held) == {"a": 2, "b": 2, "b inverted": 2}
    assert list(pool) == sorted(pool)
    assert list(held) == sorted(held)


def test_where_scans_are_few_the_pool_comes_first() -> None:
    _, held = of_two(held_out=40).of(0)
    assert Counter(TWO.groups[row] for row in held) == {"a": 4, "b": 2, "b inverted": 2}


def test_a_seed_draws_the_same_again_and_other_seeds_draw_others() -> None:
    of = of_two()
    assert of.of(3) == of.of(3)
    assert len({of.of(seed) for seed in range(9)}) == 9


@given(
    patients=st.lists(st.integers(0, 7), min_size=12, max_size=30),
    seed=st.integers(0, 99),
    by_patient=st.booleans(),
    most=st.sampled_from([None, 1, 2]),
)
def test_no_patient_is_ever_on_both_sides(
    patients: list[int], seed: int, by_patient: bool, most: int | None
) -> None:
    mixed = mixture(*[("a", f"kind {p % 3}", False) for p in patients])
    asked = recipe(
        {"a": {"folder": "a", "group_column": "kind"}},
        held_out=2,
        largest_share=0.5,
        unit="patients" if by_patient else "scans",
        most_per_patient=most,
    )
    try:
        pool, held = draws.plan(asked, mixed, patients, 0).of(seed)
    except ConfigError:  # every group is too small to hold anything out
        return
    assert not {patients[row] for row in pool} & {patients[row] for row in held}
    assert len({*pool, *held}) == len(pool) + len(held)
    if most:
        assert max(Counter(patients[row] for row in pool).values(), default=0) <= most


def test_a_scan_is_never_in_use_both_as_it_is_and_inverted() -> None:
    of = of_two()
    for seed in range(9):
        used = [PATIENTS[row] for rows in of.of(seed) for row in rows]
        assert len(used) == len(set(used))


def test_patients_bring_all_their_scans_and_are_what_is_counted() -> None:
    patients = [n // 3 for n in range(30)]
    asked = recipe({"a": {"folder": "a", "pool": 5}}, unit="patients", held_out=2)
    pool, held = draws.plan(asked, mixture(*[PLAIN] * 30), patients, 0).of(0)
    assert (len(pool), len(held)) == (15, 6)
    assert set(Counter(patients[row] for row in pool).values()) == {3}


def test_groups_that_the_table_leaves_out_are_not_drawn() -> None:
    mixed = mixture(*[("a", kind, False) for kind in "xxxxyyyyzzzz"])
    source = {"folder": "a", "group_column": "kind", "pool": {"x": 2, "y": 3}}
    pool, held = draws.plan(recipe({"a": source}, held_out=1), mixed, range(12), 0).of(0)
    assert Counter(mixed.groups[row] for row in pool) == {"x": 2, "y": 3}
    assert Counter(mixed.groups[row] for row in held) == {"x": 1, "y": 1}


def test_without_a_number_the_pool_takes_what_is_not_held_out_up_to_a_limit() -> None:
    mixed = mixture(*[("a", "x", False)] * 20, *[("a", "y", False)] * 4)
    source = {"a": {"folder": "a", "group_column": "kind"}}
    pool, held = draws.plan(recipe(source, held_out=3), mixed, range(24), 0).of(0)
    assert Counter(mixed.groups[row] for row in held) == {"x": 3, "y": 1}  # at most a quarter
    assert len(pool) == 20
    limited = recipe(source, held_out=3, most_per_group=5)
    pool, _ = draws.plan(limited, mixed, range(24), 0).of(0)
    assert Counter(mixed.groups[row] for row in pool) == {"x": 5, "y": 3}


def test_outliers_are_in_the_pool_and_never_held_out() -> None:
    mixed = mixture(*[PLAIN] * 10, *[("odd", "", False)] * 5)
    sources = {
        "a": {"folder": "a", "pool": 6},
        "odd": {"folder": "b", "pool": 2, "outlier": True},
    }
    pool, held = draws.plan(recipe(sources), mixed, range(15), 0).of(0)
    assert [mixed.groups[row] for row in pool].count("") == 2
    assert {mixed.groups[row] for row in held} == {"a"}


def test_scans_of_two_sources_that_belong_together_are_drawn_from_the_first() -> None:
    mixed = mixture(*[PLAIN] * 6, *[TURNED] * 6)
    patients = [*range(6), 0, 1, 2, 8, 9, 10]  # three scans are in both sources
    sources = {"a": {"folder": "a", "pool": 3}, "b": {"folder": "b", "pool": 2}}
    for seed in range(5):
        pool, held = draws.plan(recipe(sources, held_out=1), mixed, patients, 0).of(seed)
        assert not {6, 7, 8} & {*pool, *held}


def test_more_scans_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="asks for 60 of a in the pool, but 10 are there"):
        draws.plan(recipe({"a": {"folder": "a", "pool": 60}}), mixture(*[PLAIN] * 10), range(10), 0)


def test_a_recipe_that_holds_nothing_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no scan out"):
        draws.plan(recipe({"a": {"folder": "a"}}), mixture(*[PLAIN] * 3), range(3), 0)
