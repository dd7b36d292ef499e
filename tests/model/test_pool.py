from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from model import pool


@given(
    axes=st.sampled_from([1, pool.FEW_AXES, pool.FEW_AXES + 1, 30]),
    others=st.integers(1, 40),
    number=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_neighbours_are_the_nearest_others_whatever_the_number_of_axes(
    axes: int, others: int, number: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    points, there = draw.random((7, axes)), draw.random((others, axes))
    number = min(number, others)

    rows = pool.neighbours(points, there, number)

    assert rows.shape == (7, number)
    distances = cdist(points, there)
    found = np.take_along_axis(distances, rows, axis=1)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :number], atol=1e-6)
