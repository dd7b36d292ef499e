from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from model import stability


def embeddings(kinds: int, n: int = 60) -> stability.Array:
    rng = np.random.default_rng(0)
    centres = 8 * rng.normal(size=(kinds, 16))
    rows: stability.Array = centres[np.arange(n) % kinds] + rng.normal(size=(n, 16))
    return rows


@pytest.mark.seconds
def test_overlaps_are_those_of_the_chosen_sets() -> None:
    found = stability.measure(embeddings(3), 6, seeds=(0, 1), perplexities=(5, 15))

    assert [(one.perplexity, one.seed) for one in found.chosen] == [
        (5, 0), (5, 1), (15, 0), (15, 1),
    ]  # fmt: skip
    sets = [one.rows for one in found.chosen]
    assert all(len(rows) == 6 for rows in sets)
    shared = {pair: len(sets[pair[0]] & sets[pair[1]]) / 6 for pair in combinations(range(4), 2)}
    assert found.over_seeds == pytest.approx((shared[0, 1] + shared[2, 3]) / 2)
    assert found.over_perplexities == pytest.approx((shared[0, 2] + shared[1, 3]) / 2)
    assert found.overall == pytest.approx(np.mean(list(shared.values())))
    assert found.chance == 0.1


@pytest.mark.seconds
def test_the_parts_of_embeddings_are_scaled() -> None:
    def chosen(rows: stability.Array, widths: tuple[int, ...]) -> list[frozenset[int]]:
        found = stability.measure(rows, 6, seeds=(0,), perplexities=(5, 15), widths=widths)
        return [choice.rows for choice in found.chosen]

    loud = embeddings(3) * np.repeat([1, 1000], [5, 11])
    other = loud * np.repeat([1024, 1], [5, 11])  # a power of two: rounding stays the same

    assert chosen(loud, (5, 11)) == chosen(other, (5, 11))
    assert chosen(loud, (5, 11)) != chosen(loud, ())


@pytest.mark.seconds
def test_a_choice_that_no_chance_touches_is_stable_and_a_noisy_one_is_not() -> None:
    """A random choice follows its seed alone, so one seed is stable and several are not."""
    steady = stability.measure(
        embeddings(3), 6, strategy="random", seeds=(0,), perplexities=(5, 15)
    )
    shaky = stability.measure(
        embeddings(3), 6, strategy="random", seeds=range(4), perplexities=(5,)
    )

    assert steady.overall == 1
    assert steady.warnings == ()
    assert shaky.overall < 0.4
    assert len(shaky.warnings) == 1


@pytest.mark.seconds
def test_perplexities_that_a_small_pool_does_not_allow_are_tried_once() -> None:
    found = stability.measure(embeddings(1, 40), 4, seeds=(0,))

    assert [one.perplexity for one in found.chosen] == [5, 13]


def test_a_pool_without_neighbourhoods_is_refused() -> None:
    with pytest.raises(ValueError, match="4 scans have no neighbourhoods"):
        stability.measure(embeddings(1, 4), 2)


@pytest.mark.parametrize(
    ("budget", "seeds", "message"),
    [(0, (0, 1), "budget is 0 of 60"), (60, (0, 1), "expected 1 to 59"), (5, (0,), "one map")],
)
def test_what_cannot_be_compared_is_refused(
    budget: int, seeds: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stability.measure(embeddings(2), budget, seeds=seeds, perplexities=(5,))
