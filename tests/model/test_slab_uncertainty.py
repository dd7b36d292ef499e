from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.uncertainty import of_pages

PAGES = st.lists(st.floats(0, 1), min_size=1, max_size=15)


@given(value=st.floats(0, 1))
def test_a_scan_of_one_page_keeps_its_uncertainty(value: float) -> None:
    assert of_pages([value]) == value


@given(pages=PAGES, data=st.data())
def test_it_lies_between_the_mean_and_the_largest_whatever_the_order(
    pages: list[float], data: st.DataObject
) -> None:
    found = of_pages(pages)
    assert sum(pages) / len(pages) - 1e-9 <= found <= max(pages) + 1e-9
    assert of_pages(data.draw(st.permutations(pages))) == found


def test_it_is_the_mean_of_the_most_uncertain_third_rounded_up() -> None:
    assert of_pages([0.1, 0.9, 0.2]) == 0.9
    assert of_pages([0.1, 0.9, 0.2, 0.5]) == pytest.approx(0.7)
    assert of_pages([0.0] * 12 + [0.5] * 3) == pytest.approx(0.3)


def test_one_uncertain_page_of_many_counts_more_than_in_a_mean() -> None:
    assert of_pages([0.0, 0.0, 0.0, 0.0, 0.9]) > of_pages([0.2] * 5)


def test_no_page_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        of_pages([])
