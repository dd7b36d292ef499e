from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import scaling

Array = npt.NDArray[Any]

widths_of = st.lists(st.integers(1, 6), min_size=2, max_size=4)


def pool(widths: list[int], n: int = 12, seed: int = 0) -> Array:
    """Return embeddings whose parts differ in unit and in distance from the origin."""
    rng = np.random.default_rng(seed)
    parts = [10.0**i * (rng.normal(size=(n, width)) + i) for i, width in enumerate(widths)]
    return np.hstack(parts).astype(np.float32)


def parts(rows: Array, widths: list[int]) -> list[Array]:
    return np.split(rows, np.cumsum(widths)[:-1], axis=1)


def spread(rows: Array) -> float:
    return float(np.sqrt(np.square(rows - rows.mean(axis=0)).sum(axis=1).mean()))


@given(widths=widths_of, n=st.integers(2, 20), seed=st.integers(0, 100))
def test_after_scaling_every_part_has_a_spread_of_one(widths: list[int], n: int, seed: int) -> None:
    rows = pool(widths, n, seed)
    scaled = rows * scaling.factors(rows, widths)
    assert [spread(part) for part in parts(scaled, widths)] == pytest.approx([1] * len(widths))


@given(widths=widths_of, unit=st.floats(0.1, 1e3), offset=st.floats(-100, 100))
def test_the_unit_and_the_origin_of_a_part_do_not_matter(
    widths: list[int], unit: float, offset: float
) -> None:
    rows = pool(widths).astype(np.float64)
    other = np.hstack([unit * rows[:, : widths[0]] + offset, rows[:, widths[0] :]])
    one, two = (x * scaling.factors(x, widths) for x in (rows, other))
    assert one - one.mean(axis=0) == pytest.approx(two - two.mean(axis=0), abs=1e-4)


@given(n=st.integers(1, 5), value=st.floats(-1e3, 1e3, width=32))
def test_a_part_that_is_the_same_for_all_scans_gets_nothing(n: int, value: float) -> None:
    rows = np.full((n, 5), value, np.float32)
    rows[:, 3:] += np.arange(n, dtype=np.float32)[:, None] * 1000
    found = scaling.factors(rows, [3, 2])
    assert (found[:3] == 0).all()
    assert (found[3:] > 0).all() == (n > 1)


def test_rounding_is_no_spread() -> None:
    rng = np.random.default_rng(0)
    alike = 1 + 1e-6 * rng.normal(size=(20, 4))
    assert (scaling.factors(np.hstack([alike, rng.normal(size=(20, 2))]), [4, 2])[:4] == 0).all()


def test_an_empty_pool_has_no_scale_whatever_its_shape() -> None:
    assert scaling.factors(np.empty((0, 1)), [3, 2]).shape == ()


@pytest.mark.parametrize("widths", [(), (7,)])
def test_one_part_is_left_as_it_is(widths: tuple[int, ...]) -> None:
    assert scaling.factors(np.ones((4, 7)), widths).shape == ()


def test_the_widths_of_other_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="embeddings have 7 features, their parts 6"):
        scaling.factors(np.ones((4, 7)), [2, 4])
