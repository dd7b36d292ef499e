from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.storage import pages

URLS = st.lists(st.text(st.characters(min_codepoint=32)), min_size=1, max_size=15)


@given(urls=URLS)
def test_pages_are_separated_as_they_were_joined(urls: list[str]) -> None:
    assert pages.separate(pages.joined(urls)) == urls


@given(urls=st.lists(st.text(), min_size=1, max_size=5))
def test_no_text_in_an_address_makes_another_page(urls: list[str]) -> None:
    assert len(pages.separate(pages.joined(urls))) == len(urls)


def test_a_scan_of_one_page_has_the_address_of_its_image() -> None:
    assert pages.joined(["/data/a.png"]) == "/data/a.png"
    assert pages.separate("") == [""]
