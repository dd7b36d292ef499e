from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ConfigError
from backend.exchange import slice_choice

SIZES = st.sampled_from([3, 5, 7, 15])


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Return the slices of a volume, some of which may be missing, and those that are chosen."""
    present = sorted(draw(st.sets(st.integers(0, 60), min_size=1)))
    return present, draw(st.lists(st.sampled_from(present), min_size=1, unique=True))


@given(choice=choices(), size=SIZES)
def test_slabs_hold_every_chosen_slice_and_none_twice(
    choice: tuple[list[int], list[int]], size: int
) -> None:
    present, chosen = choice
    slabs = slice_choice.slabs(chosen, present, size)
    pages = [index for slab in slabs for index in slab]
    assert len(pages) == len(set(pages))
    assert set(chosen) <= set(pages) <= set(present)
    for slab in slabs:
        assert 1 <= len(slab) <= size
        first = present.index(slab[0])
        assert list(slab) == present[first : first + len(slab)], "neighbours, none left out"


@given(choice=choices(), size=SIZES, data=st.data())
def test_known_slabs_stay_when_more_slices_are_chosen(
    choice: tuple[list[int], list[int]], size: int, data: st.DataObject
) -> None:
    present, chosen = choice
    known = slice_choice.slabs(chosen, present, size)
    assert slice_choice.slabs(chosen, present, size, known) == known
    more = data.draw(st.lists(st.sampled_from(present), unique=True))
    slabs = slice_choice.slabs([*chosen, *more], present, size, known)
    assert set(known) <= set(slabs)
    pages = [index for slab in slabs for index in slab]
    assert len(pages) == len(set(pages))
    assert set(more) <= set(pages)


def test_a_slab_lies_around_its_chosen_slice() -> None:
    assert slice_choice.slabs([4, 14], range(20), 5) == [(2, 3, 4, 5, 6), (12, 13, 14, 15, 16)]


def test_all_slices_make_slabs_one_after_the_other() -> None:
    every = [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert slice_choice.slabs(range(8), range(8), 3) == every
    assert slice_choice.slabs([1, 4, 7], range(8), 3) == every, "so does the middle of each three"


def test_slabs_are_shorter_at_the_ends_of_a_volume() -> None:
    assert slice_choice.slabs([0, 9], range(10), 5) == [(0, 1, 2, 3, 4), (7, 8, 9)]


@pytest.mark.parametrize("size", [0, -3, 2, 4, 17])
def test_a_slab_has_an_odd_number_of_pages_from_3_to_15(size: int) -> None:
    with pytest.raises(ConfigError, match=f"--slab is {size}, expected an odd number from 3 to 15"):
        slice_choice.check_slab(size)


@pytest.mark.parametrize("size", [1, 3, 15])
def test_no_slabs_and_slabs_of_3_to_15_are_allowed(size: int) -> None:
    slice_choice.check_slab(size)
