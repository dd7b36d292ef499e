"""The paper's acquisition against naive oracles, and what is special to each rival.

What holds for all of them is in test_strategies.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition
from model.kernels import bandwidth
from tests.model.planted import blobs, coarse_pools

Array = npt.NDArray[Any]

FEW = settings(max_examples=60)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    pool = draw(coarse_pools(12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return {
        "uncertainty": rng.integers(0, draw(st.integers(1, 6)), len(pool["labelled"])) / 5,
        "alpha": draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        "batch": draw(st.sampled_from([None, 1, 3, 20])),
        "random_fraction": draw(st.sampled_from([0.0, 0.4])),
        **pool,
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


def auto(labelled: Array, points: Array | None = None) -> float:
    places = blobs(4, 25) if points is None else points
    return acquisition.rank(np.ones(len(places)), places, labelled, alpha="auto").alpha


def test_an_automatic_alpha_falls_from_exploring_to_exploiting_as_the_pool_is_covered() -> None:
    rows = np.random.default_rng(0).permutation(100)

    alphas = [auto(np.isin(np.arange(100), rows[:count])) for count in (0, 4, 10, 30, 99, 100)]

    assert alphas == sorted(alphas, reverse=True)
    assert alphas[0] == pytest.approx(1, abs=0.01)
    assert alphas[-2] < 0.05


def test_an_automatic_alpha_is_higher_where_the_same_number_of_labels_covers_less() -> None:
    one_place, four_places = np.arange(100) < 8, np.arange(100) % 25 < 2

    assert auto(one_place) > auto(four_places) + 0.1


def test_an_automatic_alpha_is_the_weight_that_is_used() -> None:
    rng = np.random.default_rng(0)
    pool: tuple[Array, ...] = (rng.random(60), blobs(3, 20), np.arange(60) % 15 == 0)

    free = acquisition.rank(*pool, alpha="auto", batch=5)
    fixed = acquisition.rank(*pool, alpha=free.alpha, batch=5)

    assert 0 < free.alpha < 1
    assert free.order.tolist() == fixed.order.tolist()
    assert np.isnan(acquisition.rank(*pool, strategy="entropy").alpha)


def test_a_shortlist_is_spread_and_then_the_rest_follows_by_uncertainty() -> None:
    uncertainty = np.concatenate([[0.9, 0.8, 0.7, 0.6] * 2, np.linspace(0.5, 0, 12)])
    points = np.array([[x, 0.0] for x in [0, 1, 2, 3, 90, 91, 92, 93, *range(200, 212)]])
    labelled = np.zeros(20, bool)

    order = acquisition.rank(
        uncertainty, points, labelled, strategy="entropy-then-diversity", batch=2
    ).order

    # Shortlisted: the first eight. The most uncertain one, then the farthest from it among them.
    assert order[:2].tolist() == [0, 7]
    rest = [row for row in np.argsort(-uncertainty, kind="stable") if row not in (0, 7)]
    assert order[2:].tolist() == rest


def test_power_noise_fades_with_the_batches_that_are_labelled() -> None:
    rng = np.random.default_rng(0)
    uncertainty = rng.uniform(0.3, 0.7, 400)

    def certain(labels: int) -> float:
        """Mean rank of a batch by uncertainty: 4.5 when it is the foremost ten."""
        labelled = np.arange(400) < labels
        ranks = np.argsort(np.argsort(-np.where(labelled, 0, uncertainty)))
        batches = [
            acquisition.rank(
                uncertainty, rng.random((400, 2)), labelled,
                strategy="power-noise", batch=10, seed=seed,
            ).order[:10]
            for seed in range(10)
        ]  # fmt: skip
        return float(np.mean(ranks[np.concatenate(batches)]))

    assert certain(0) > 100
    assert certain(100) < 20


@pytest.mark.parametrize("rule", ["power-noise", "coverage"])
def test_a_rule_that_takes_ratios_refuses_negative_uncertainty(rule: str) -> None:
    with pytest.raises(ValueError, match=r"goes down to -0\.5: expected values of at least 0"):
        acquisition.rank(np.array([1, -0.5]), np.eye(2), np.zeros(2, bool), strategy=rule)


@pytest.mark.parametrize("seed", range(3))
def test_coverage_equals_a_naive_greedy_cover_of_uncertainty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, uncertainty = rng.normal(size=(45, 2)), rng.random(45)
    labelled = np.arange(45) < 5
    left = np.arange(5, 45)
    scale = 2 * bandwidth(points[left], 15, seed=seed) ** 2
    squares = ((points[:, None] - points[left]) ** 2).sum(axis=2)
    near = np.exp(-squares / scale)  # (45, 40)
    covered, naive = near[labelled].max(axis=0), list[int]()
    for _ in range(10):
        gains = (np.maximum(near[left] - covered, 0) * uncertainty[left]).sum(axis=1)
        gains[naive] = -np.inf
        naive.append(int(np.argmax(gains)))
        covered = np.maximum(covered, near[left[naive[-1]]])

    order = acquisition.rank(
        uncertainty, points, labelled, strategy="coverage", batch=10, seed=seed
    ).order

    assert order[:10].tolist() == left[naive].tolist()


def test_a_bunched_batch_is_said_with_its_value_its_threshold_and_a_remedy() -> None:
    points = blobs(5, 20)
    uncertainty = np.where(np.arange(100) < 20, 1.0, 0.0)
    labelled = np.arange(100) == 99

    bunched = acquisition.rank(uncertainty, points, labelled, strategy="entropy", batch=8)
    spread = acquisition.rank(uncertainty, points, labelled, alpha=1.0, batch=8)

    [said] = bunched.warnings
    assert said.startswith("clustered batch: mean nearest-neighbour distance ")
    assert "(5th percentile of 200 random batches): choose the acquisition" in said
    assert "alpha" not in said  # entropy alone has none
    assert spread.warnings == ()
    near = acquisition.rank(uncertainty, points, labelled, alpha=0.0, batch=8)
    assert "raise alpha" in near.warnings[0]


@pytest.mark.seconds
def test_the_control_arm_goes_on_over_rounds_however_short_they_are() -> None:
    labelled, drawn = np.zeros(60, bool), list[bool]()
    for _ in range(40):
        ranking = acquisition.rank(
            np.ones(60), np.zeros((60, 2)), labelled, batch=10, random_fraction=0.1
        )
        drawn.append(bool(ranking.control[0]))
        labelled[ranking.order[0]] = True

    assert np.flatnonzero(drawn).tolist() == [9, 19, 29, 39]


@pytest.mark.parametrize("fraction", [0.04, 0.5, 0.7])
def test_the_control_arm_is_spread_evenly(fraction: float) -> None:
    control = acquisition.rank(
        np.ones(100), np.zeros((100, 2)), np.zeros(100, bool), random_fraction=fraction
    ).control

    gaps = np.diff(np.flatnonzero(control))
    assert control.sum() == 100 * fraction
    assert set(gaps) <= {int(1 / fraction), int(1 / fraction) + 1}


@pytest.mark.parametrize("options", [{"strategy": "random"}, {"strategy": "power-noise"},
                                     {"random_fraction": 1.0}])  # fmt: skip
def test_rounds_of_random_draws_do_not_walk_along_the_rows(options: dict[str, Any]) -> None:
    labelled, batches = np.zeros(300, bool), list[Array]()
    for _ in range(8):
        ranking = acquisition.rank(np.ones(300), np.zeros((300, 2)), labelled, batch=3, **options)
        batches.append(ranking.order[:3])
        labelled[batches[-1]] = True

    steps = np.abs(np.diff(batches, axis=0))
    assert np.median(steps) > 20
    assert len(set(np.concatenate(batches))) == 24


def test_a_random_order_stays_while_it_is_labelled() -> None:
    pool: dict[str, Any] = {"uncertainty": np.ones(30), "coordinates": np.zeros((30, 2))}
    whole = acquisition.rank(**pool, labelled=np.zeros(30, bool), strategy="random").order

    labelled = np.isin(np.arange(30), whole[:7])

    rest = acquisition.rank(**pool, labelled=labelled, strategy="random").order
    assert rest.tolist() == whole[7:].tolist()


def test_a_shortlist_is_ordered_by_uncertainty_where_all_lie_in_one_place() -> None:
    points = np.array([[0.0, 0]] * 5 + [[9.0, 0]])
    uncertainty = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.9])

    order = acquisition.rank(
        uncertainty, points, np.arange(6) == 0, strategy="entropy-then-diversity"
    ).order

    assert order.tolist() == [5, 4, 3, 2, 1]


def test_with_nothing_labelled_an_automatic_alpha_still_starts_with_the_most_uncertain() -> None:
    order = acquisition.rank(
        np.array([0.1, 0.9, 0.5]), np.arange(6.0).reshape(3, 2), np.zeros(3, bool), alpha="auto"
    ).order

    assert order[0] == 1


def test_coverage_without_a_batch_picks_a_thousand_and_ranks_the_rest_by_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.acquisition.coverage.UncertaintyCoverage.most_picks", 5)
    rng = np.random.default_rng(0)
    points, uncertainty = rng.random((40, 2)), rng.random(40)

    ranking = acquisition.rank(uncertainty, points, np.zeros(40, bool), strategy="coverage")

    picked = points[ranking.order[:5]]
    away = [np.linalg.norm(picked - point, axis=1).min() for point in points[ranking.order[5:]]]
    assert away == sorted(away, reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"strategy": "luck"},
            "unknown acquisition 'luck': choose one of entropy-diversity, entropy,",
        ),
        ({"alpha": "much"}, "alpha is 'much': expected a number from 0 to 1 or \"auto\""),
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
