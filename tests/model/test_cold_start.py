from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from model import cold_start

Array = npt.NDArray[Any]

FEW = settings(deadline=None, max_examples=40)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    """A small pool on a coarse grid, hence full of duplicates, with labels and groups."""
    n = draw(st.integers(0, 14))
    width = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    share = draw(st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    return {
        "embeddings": np.zeros((n, 3), np.float32),
        "coordinates": rng.integers(0, width, (n, 2)).astype(np.float32),
        "labelled": rng.random(n) < share,
        "groups": draw(st.sampled_from([None, rng.integers(0, 4, n)])),
        "budget": draw(st.integers(1, 16)),
        "seed": draw(st.integers(0, 3)),
    }


def blobs(number: int, each: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    angles = np.arange(number) * 2 * np.pi / number
    centres = 20 * np.column_stack([np.cos(angles), np.sin(angles)])
    return np.repeat(centres, each, axis=0) + rng.normal(size=(number * each, 2))


def select(points: Array, budget: int, **options: Any) -> cold_start.ColdStart:
    return cold_start.select(points, budget, coordinates=points, **options)


@FEW
@given(pools())
def test_the_order_is_every_unlabelled_row_once_the_same_each_time(pool: dict[str, Any]) -> None:
    before = {key: np.copy(value) for key, value in pool.items() if isinstance(value, np.ndarray)}

    first, second = cold_start.select(**pool), cold_start.select(**pool)

    assert sorted(first.order) == np.flatnonzero(~pool["labelled"]).tolist()
    assert np.array_equal(first.order, second.order)
    assert np.array_equal(first.clusters, second.clusters)
    assert all(np.array_equal(value, pool[key]) for key, value in before.items())


@FEW
@given(pools(), st.integers(0, 14))
def test_labelling_a_prefix_leaves_the_rest_in_order(pool: dict[str, Any], length: int) -> None:
    whole = cold_start.select(**pool)
    labelled = pool["labelled"].copy()
    labelled[whole.order[:length]] = True

    rest = cold_start.select(**{**pool, "labelled": labelled})

    assert rest.order.tolist() == whole.order[length:].tolist()


@FEW
@given(pools())
def test_the_choice_is_the_allocation_to_clusters_medoids_first(pool: dict[str, Any]) -> None:
    pool.update(labelled=None, groups=None)
    start = cold_start.select(**pool)
    sizes = np.bincount(start.clusters, minlength=start.k)

    chosen = np.bincount(start.clusters[start.order[: pool["budget"]]], minlength=start.k)

    assert chosen.tolist() == cold_start.allocate(sizes, pool["budget"]).tolist()
    assert start.order[: start.k].tolist() == start.medoids.tolist()
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


@FEW
@given(pools())
def test_an_untouched_group_comes_before_a_touched_one(pool: dict[str, Any]) -> None:
    groups = np.arange(len(pool["labelled"])) % 4
    touched = set(groups[pool["labelled"]])
    left = set(groups[~pool["labelled"]]) - touched

    for row in cold_start.select(**{**pool, "groups": groups}).order:
        assert not left or groups[row] in left
        left.discard(groups[row])


@FEW
@given(pools())
def test_the_order_equals_that_of_a_naive_greedy_walk(pool: dict[str, Any]) -> None:
    pool.update(groups=None)
    start = cold_start.select(**pool)

    assert start.order.tolist() == naive_order(start, pool["labelled"], pool["budget"])


def naive_order(start: cold_start.ColdStart, labelled: Array, budget: int) -> list[int]:
    points = start.map.astype(np.float64)
    sizes = np.bincount(start.clusters, minlength=start.k)
    quotas = cold_start.allocate(sizes, budget)
    chosen, order = set(np.flatnonzero(labelled).tolist()), list[int]()
    while len(chosen) < len(points):
        members = [np.flatnonzero(start.clusters == c).tolist() for c in range(start.k)]
        counts = [len(chosen & set(rows)) for rows in members]
        goals = quotas if any(a < b for a, b in zip(counts, quotas, strict=True)) else sizes
        short = [c for c in range(start.k) if counts[c] < goals[c]]
        c = min(short, key=lambda c: (counts[c] > 0, (counts[c] + 1) / goals[c], c))
        inside = [points[row] for row in members[c] if row in chosen]
        row = start.medoids[c]
        if inside:
            left = [row for row in members[c] if row not in chosen]
            row = max(left, key=lambda r: min(np.hypot(*(points[r] - p)) for p in inside))
        order.append(int(row))
        chosen.add(int(row))
    return order


@FEW
@given(pools())
def test_k_is_the_silhouette_maximum_and_medoids_have_the_least_summed_distance(
    pool: dict[str, Any],
) -> None:
    points = pool["coordinates"].astype(np.float64)
    found = cold_start.cluster(points, pool["budget"], seed=pool["seed"])

    scores = {1: -1.0}
    for k in range(2, min(pool["budget"], len(points) - 1, len(np.unique(points, axis=0))) + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = KMeans(k, n_init=10, random_state=pool["seed"]).fit_predict(points)
        scores[k] = silhouette_score(points, labels)
    if len(points):
        assert found.k == max(scores, key=lambda k: scores[k])
    if found.k > 1:
        assert found.silhouette == pytest.approx(scores[found.k])
    for number, medoid in enumerate(found.medoids):
        members = points[found.clusters == number]
        sums = [np.linalg.norm(members - point, axis=1).sum() for point in members]
        own = np.linalg.norm(members - points[medoid], axis=1).sum()
        assert own == pytest.approx(min(sums))


def test_five_blobs_are_found_and_the_first_five_scans_hit_them_all() -> None:
    points = blobs(5, 24)
    blob = np.repeat(np.arange(5), 24)

    start = select(points, 10)

    assert start.k == 5
    assert set(blob[start.order[:5]]) == {0, 1, 2, 3, 4}
    rng = np.random.default_rng(0)
    lucky = sum(len(set(blob[rng.permutation(120)[:5]])) == 5 for _ in range(200))
    assert lucky < 30


def test_a_pool_judged_on_samples_shows_the_same_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "LARGE", 20)
    monkeypatch.setattr(cold_start, "SAMPLE", 15)

    assert select(blobs(3, 30), 6).k == 3


@FEW
@given(pools(), st.integers(0, 4))
def test_beyond_the_greedy_part_the_laws_hold_too(pool: dict[str, Any], length: int) -> None:
    pool.update(labelled=np.zeros(len(pool["labelled"]), bool), budget=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cold_start, "GREEDY", 4)
        whole = cold_start.select(**pool)
        pool["labelled"][whole.order[:length]] = True
        rest = cold_start.select(**pool)

    assert sorted(whole.order) == list(range(len(pool["labelled"])))
    assert rest.order.tolist() == whole.order[length:].tolist()


def test_beyond_the_greedy_part_clusters_stay_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "GREEDY", 4)
    start = select(blobs(2, 20), 4)

    assert sorted(start.clusters[start.order[20:30]]) == [0] * 5 + [1] * 5


def test_labelled_scans_use_up_their_clusters_share() -> None:
    points = blobs(2, 10)
    labelled = np.zeros(20, bool)
    labelled[[1, 2, 3]] = True

    start = select(points, 6, labelled=labelled)

    assert (start.order[:3] >= 10).all()
    medoid_there = next(row for row in start.medoids if row >= 10)
    assert start.order[0] == medoid_there


def test_a_cluster_whose_medoid_is_in_a_touched_group_opens_next_to_it() -> None:
    points = np.array([[0, 0], [1, 0], [2.5, 0], [50, 0], [51, 0], [52, 0], [60, 0]])
    groups = np.array([0, 1, 2, 3, 1, 5, 6])  # rows 1 and 4 are medoids and share a group

    start = select(points, 2, groups=groups)

    assert start.medoids.tolist() == [4, 1]
    assert start.order[:2].tolist() == [4, 0]
    assert start.order[-1] == 1


@pytest.mark.parametrize(
    ("sizes", "total", "counts"),
    [
        ([6, 3, 1], 5, [2, 2, 1]),  # rest 2: claims 1.2, 0.6, 0.2 -> 1 + the remainder 0.6
        ([5, 1, 1], 6, [4, 1, 1]),  # rest 3: 2.1, 0.4, 0.4, but the small ones are used up
        ([4, 4], 5, [3, 2]),  # an exact tie goes to the lower number
        ([50, 30, 20], 13, [6, 4, 3]),  # rest 10: 5, 3, 2, nothing left over
        ([7, 2], 2, [1, 1]),
        ([3, 2], 9, [3, 2]),  # more than there is
        ([], 0, []),
    ],
)
def test_an_allocation_matches_the_table(sizes: list[int], total: int, counts: list[int]) -> None:
    assert cold_start.allocate(np.array(sizes, int), total).tolist() == counts


@FEW
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 200))
def test_an_allocation_adds_up_and_never_exceeds_a_cluster(sizes: list[int], more: int) -> None:
    counts = cold_start.allocate(np.array(sizes), len(sizes) + more)

    assert counts.sum() == min(len(sizes) + more, sum(sizes))
    assert (counts >= 1).all()
    assert (counts <= sizes).all()


def test_an_allocation_below_one_each_is_refused() -> None:
    with pytest.raises(ValueError, match="1 scans for 2 clusters"):
        cold_start.allocate(np.array([3, 3]), 1)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_tiny_pools_are_projected_and_ordered(n: int) -> None:
    embeddings = np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)

    start = cold_start.select(embeddings, 10)

    assert sorted(start.order) == list(range(n))
    assert start.map.shape == (n, 2)
    assert len(start.medoids) == start.k


def test_equal_scans_come_by_row_with_a_warning() -> None:
    start = cold_start.select(np.ones((8, 4), np.float32), 3)

    assert start.order.tolist() == list(range(8))
    assert start.k == 1
    assert "look alike" in start.warnings[0]


def test_weak_clusters_are_said() -> None:
    points = np.random.default_rng(1).normal(size=(60, 12))

    assert "weak" in select(points, 4).warnings[0]
    assert select(blobs(3, 10), 4).warnings == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "luck"}, "unknown cold start 'luck': use one of medoids"),
        ({"budget": 0}, "at least 1 scan"),
        ({"labelled": np.array([0, 1])}, "expected a mask"),
        ({"groups": np.zeros(3)}, r"expected one a scan, \(4,\)"),
        ({"coordinates": np.zeros((3, 2))}, r"expected \(4, m\)"),
        ({"coordinates": np.full((4, 2), np.nan)}, "NaN or infinity"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_cure(change: dict[str, Any], message: str) -> None:
    pool = {"embeddings": np.zeros((4, 2)), "coordinates": np.zeros((4, 2)), "budget": 2}

    with pytest.raises(ValueError, match=message):
        cold_start.select(**{**pool, **change})
