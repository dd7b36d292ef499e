from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition

Array = npt.NDArray[Any]

FEW = settings(deadline=None, max_examples=60)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    """A small pool with few distinct values, hence full of ties and duplicates."""
    n = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return {
        "uncertainty": rng.integers(0, draw(st.integers(1, 6)), n) / 5,
        "coordinates": rng.integers(0, draw(st.integers(1, 5)), (n, 2)).astype(np.float32),
        "labelled": rng.random(n) < draw(st.sampled_from([0.0, 0.3, 1.0])),
        "alpha": draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        "batch": draw(st.sampled_from([None, 1, 3, 20])),
        "groups": draw(st.sampled_from([None, rng.integers(0, 4, n)])),
        "random_fraction": draw(st.sampled_from([0.0, 0.0, 0.4, 1.0])),
        "seed": draw(st.integers(0, 3)),
    }


def scaled(values: Array) -> Array:
    spread = np.ptp(values) if values.size else 0.0
    return (values - values.min()) / spread if spread else np.zeros(len(values))


def naive_rank(pool: dict[str, Any]) -> tuple[list[int], list[float]]:
    points = pool["coordinates"].astype(np.float64)
    left = np.flatnonzero(~pool["labelled"]).tolist()
    entropy = dict(zip(left, scaled(pool["uncertainty"][left]), strict=True))
    chosen = np.flatnonzero(pool["labelled"]).tolist()
    order, utility = list[int](), list[float]()

    def score() -> Array:
        distance = [min((np.hypot(*(points[i] - points[j])) for j in chosen), default=0)
                    for i in left]  # fmt: skip
        diversity = scaled(np.array(distance))
        return np.array(
            [pool["alpha"] * d + (1 - pool["alpha"]) * entropy[i]
             for i, d in zip(left, diversity, strict=True)]
        )  # fmt: skip

    for _ in range(len(left) if pool["batch"] is None else min(pool["batch"], len(left))):
        scores = score()
        best = int(np.argmax(scores))
        utility.append(float(scores[best]))
        order.append(left.pop(best))
        chosen.append(order[-1])
    scores = score()
    rest = np.argsort(-scores, kind="stable")
    return order + [left[i] for i in rest], utility + scores[rest].tolist()


@FEW
@given(pools())
def test_the_order_is_every_unlabelled_row_once_the_same_each_time(pool: dict[str, Any]) -> None:
    before = {key: np.copy(value) for key, value in pool.items() if isinstance(value, np.ndarray)}

    first, second = acquisition.rank(**pool), acquisition.rank(**pool)

    assert sorted(first.order) == np.flatnonzero(~pool["labelled"]).tolist()
    assert np.array_equal(first.order, second.order)
    assert np.array_equal(first.utility, second.utility)
    assert all(np.array_equal(value, pool[key]) for key, value in before.items())


@FEW
@given(pools())
def test_the_order_and_utilities_equal_those_of_a_naive_greedy_search(pool: dict[str, Any]) -> None:
    pool.update(groups=None, random_fraction=0.0)

    ranking = acquisition.rank(**pool)

    order, utility = naive_rank(pool)
    assert ranking.order.tolist() == order
    assert ranking.utility == pytest.approx(utility)


@FEW
@given(pools())
def test_utility_is_the_weighted_sum_of_two_terms_between_0_and_1(pool: dict[str, Any]) -> None:
    ranking = acquisition.rank(**pool)

    alpha = pool["alpha"]
    sums = alpha * ranking.diversity + (1 - alpha) * ranking.uncertainty
    assert ranking.utility == pytest.approx(sums)
    for term in (ranking.diversity, ranking.uncertainty):
        assert ((term >= 0) & (term <= 1)).all()


@FEW
@given(pools())
def test_an_untouched_group_comes_before_a_touched_one(pool: dict[str, Any]) -> None:
    groups = np.arange(len(pool["labelled"])) % 4
    left = set(groups[~pool["labelled"]]) - set(groups[pool["labelled"]])

    for row in acquisition.rank(**{**pool, "groups": groups}).order:
        assert not left or groups[row] in left
        left.discard(groups[row])


def test_a_hand_computed_batch() -> None:
    coordinates = np.array([[0.0], [1.0], [4.0], [10.0]])
    labelled = np.array([True, False, False, False])
    uncertainty = np.array([np.nan, 1.0, 0.5, 0.0])

    ranking = acquisition.rank(uncertainty, coordinates, labelled, alpha=0.6)

    # First D = 0, 1/3, 1: S = 0.4, 0.4, 0.6. Then distances 1 and 4, D = 0, 1: S = 0.4, 0.8.
    assert ranking.order.tolist() == [3, 2, 1]
    assert ranking.utility == pytest.approx([0.6, 0.8, 0.4])
    assert ranking.diversity == pytest.approx([1, 1, 0])
    assert ranking.uncertainty == pytest.approx([0, 0.5, 1])


def test_without_diversity_the_most_uncertain_come_first() -> None:
    rng = np.random.default_rng(0)
    uncertainty, labelled = rng.random(30), rng.random(30) < 0.3

    order = acquisition.rank(uncertainty, rng.random((30, 2)), labelled, alpha=0.0).order

    assert order.tolist() == [r for r in np.argsort(-uncertainty) if not labelled[r]]


def test_diversity_spreads_a_batch_that_entropy_alone_would_heap_up() -> None:
    coordinates = np.array([[0.0, 0]] * 5 + [[9.0, 0]] * 5 + [[0, 9.0]])
    labelled = np.arange(11) == 10
    uncertainty = np.array([1.0] * 5 + [0.9] * 5 + [0.0])

    spread = acquisition.rank(uncertainty, coordinates, labelled, alpha=0.6, batch=2).order[:2]
    heaped = acquisition.rank(uncertainty, coordinates, labelled, alpha=0.0, batch=2).order[:2]

    assert set(spread // 5) == {0, 1}
    assert set(heaped // 5) == {0}


def test_with_nothing_labelled_the_first_pick_has_no_diversity() -> None:
    ranking = acquisition.rank(
        np.array([0.1, 0.9, 0.9]), np.array([[0.0], [1.0], [2.0]]), np.zeros(3, bool), alpha=0.3
    )

    assert ranking.order[0] == 1
    assert ranking.diversity[0] == 0
    assert ranking.utility[0] == pytest.approx(0.7)


def test_ties_go_to_the_lowest_row() -> None:
    order = acquisition.rank(np.ones(5), np.zeros((5, 2)), np.zeros(5, bool)).order

    assert order.tolist() == [0, 1, 2, 3, 4]


def test_the_random_share_is_spread_over_the_batch_and_follows_the_seed() -> None:
    uncertainty = np.linspace(1, 0, 200)
    pool: tuple[Array, ...] = (uncertainty, np.zeros((200, 2)), np.zeros(200, bool))

    def drawn(seed: int) -> list[int]:
        options: dict[str, Any] = {"batch": 10, "random_fraction": 0.3, "seed": seed}
        order = acquisition.rank(*pool, **options).order[:10]
        return [position for position, row in enumerate(order) if row > 10]

    assert drawn(0) == [1, 4, 8]
    one, other = (acquisition.rank(*pool, random_fraction=1.0, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.order, other.order)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_candidate_without_a_number_is_refused_and_a_labelled_one_is_not_read(bad: float) -> None:
    uncertainty = np.array([0.5, bad, 0.2])
    coordinates = np.arange(6.0).reshape(3, 2)

    kept = acquisition.rank(uncertainty, coordinates, np.array([False, True, False]))
    assert kept.order.tolist() == [0, 2]
    with pytest.raises(ValueError, match="1 candidates is NaN or infinite, first row 1"):
        acquisition.rank(uncertainty, coordinates, np.zeros(3, bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "luck"}, "unknown acquisition 'luck': use one of entropy-diversity"),
        ({"alpha": "auto"}, "alpha is 'auto': expected a number from 0 to 1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": 1.1}, "alpha is 1.1"),
        ({"random_fraction": -0.1}, "random_fraction is -0.1"),
        ({"batch": 0}, "expected at least 1"),
        ({"labelled": np.array([1, 2])}, "expected a mask"),
        ({"uncertainty": np.zeros(3)}, r"uncertainty has shape \(3,\)"),
        ({"coordinates": np.zeros(4)}, r"expected \(4, m\)"),
        ({"coordinates": np.full((4, 2), np.inf)}, "NaN or infinity"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_cure(change: dict[str, Any], message: str) -> None:
    pool: dict[str, Any] = {
        "uncertainty": np.zeros(4),
        "coordinates": np.zeros((4, 2)),
        "labelled": np.zeros(4, bool),
    }

    with pytest.raises(ValueError, match=message):
        acquisition.rank(**{**pool, **change})
