from __future__ import annotations

from collections import OrderedDict
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from backend.rounds.drafts.recent import kept


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 12))
def test_all_entries_together_keep_within_the_bound(sizes: list[int], most: int) -> None:
    entries: OrderedDict[int, int] = OrderedDict()
    for name, size in enumerate(sizes):
        assert kept(entries, name, most, partial(int, size), lambda entry: entry) == size
        assert name in entries
        assert sum(entries.values()) <= most or len(entries) == 1


def test_the_entry_used_longest_ago_goes_first() -> None:
    entries: OrderedDict[str, int] = OrderedDict()
    for name in ("a", "b", "a", "c"):
        kept(entries, name, 2, lambda: 0)
    assert [*entries] == ["a", "c"]
