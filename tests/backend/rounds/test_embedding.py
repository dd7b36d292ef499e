from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.rounds.embedding import CHUNK, LARGEST_CHUNK, MOST_CHUNKS, chunk_size


@given(scans=st.integers(1, 10_000_000))
def test_a_large_pool_has_larger_chunks_but_none_that_fills_the_memory(scans: int) -> None:
    size = chunk_size(scans)
    assert CHUNK <= size <= LARGEST_CHUNK
    assert scans <= MOST_CHUNKS * size or size == LARGEST_CHUNK


def test_a_small_pool_has_small_chunks() -> None:
    assert chunk_size(1) == chunk_size(MOST_CHUNKS * CHUNK) == CHUNK
