"""The paper's cold start against naive oracles, and what is special to each rival.

What holds for all of them is in test_strategies.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import clustering, cold_start
from model.cold_start.walk import allocate
from model.kernels import bandwidth
from tests.model.planted import blobs, coarse_pools

Array = npt.NDArray[Any]

FEW = settings(max_examples=40)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    pool = draw(coarse_pools())
    n, budget = len(pool["labelled"]), draw(st.integers(1, 16))
    found = clustering.cluster(pool["coordinates"].astype(float), budget, seed=pool["seed"])
    # Count as clusters even those that overlap: this is about the paper's rule.
    known = replace(found, strays=math.nan)
    embeddings = np.zeros((n, 3), np.float32)
    return {"embeddings": embeddings, "budget": budget, "clustering": known, **pool}


def select(points: Array, budget: int, **options: Any) -> cold_start.ColdStart:
    return cold_start.select(points, budget, coordinates=points, **options)


@FEW
@given(pools())
def test_the_choice_is_the_allocation_to_clusters_medoids_first(pool: dict[str, Any]) -> None:
    pool.update(labelled=None, groups=None)
    start = cold_start.select(**pool)
    sizes = np.bincount(start.clusters, minlength=start.k)

    chosen = np.bincount(start.clusters[start.order[: pool["budget"]]], minlength=start.k)

    assert chosen.tolist() == allocate(sizes, pool["budget"]).tolist()
    assert start.order[: start.k].tolist() == start.medoids.tolist()
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


@pytest.mark.seconds
@FEW
@given(pools())
def test_the_order_equals_that_of_a_naive_greedy_walk(pool: dict[str, Any]) -> None:
    pool.update(groups=None)
    start = cold_start.select(**pool)

    assert start.order.tolist() == naive_order(start, pool["labelled"], pool["budget"])


def naive_order(start: cold_start.ColdStart, labelled: Array, budget: int) -> list[int]:
    points = start.map.astype(np.float64)
    sizes = np.bincount(start.clusters, minlength=start.k)
    quotas = allocate(sizes, budget)
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


def test_five_blobs_are_found_and_the_first_five_scans_hit_them_all() -> None:
    points = blobs(5, 24)
    blob = np.repeat(np.arange(5), 24)

    start = select(points, 10)

    assert start.k == 5
    assert set(blob[start.order[:5]]) == {0, 1, 2, 3, 4}
    rng = np.random.default_rng(0)
    lucky = sum(len(set(blob[rng.permutation(120)[:5]])) == 5 for _ in range(200))
    assert lucky < 30


def test_beyond_the_greedy_part_clusters_stay_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.cold_start.strategy.GREEDY", 4)
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


def scattered(n: int = 80, seed: int = 0) -> Array:
    """A map without clusters: what t-SNE makes of a pool of one kind."""
    return np.random.default_rng(seed).normal(size=(n, 2))


def test_on_a_map_without_clusters_coverage_chooses() -> None:
    points = scattered()

    start = select(points, 6)

    assert start.k == 1
    assert start.order.tolist() == select(points, 6, strategy="coverage").order.tolist()
    assert start.words == cold_start.STRATEGIES["coverage"].words


def test_a_budget_of_one_takes_the_medoid_where_there_are_clusters() -> None:
    points = blobs(3, 20)
    sums = [np.linalg.norm(points - point, axis=1).sum() for point in points]

    start = select(points, 1)

    assert start.order[0] == np.argmin(sums)
    assert start.words == cold_start.STRATEGIES["medoids"].words


def test_a_collapse_is_said_with_its_value_its_threshold_and_a_remedy() -> None:
    points = scattered()
    found = clustering.cluster(points, 6)

    [said] = select(points, 6, clustering=found).warnings

    assert said.startswith(f"collapse: {found.strays:.0%} of scans' neighbours lie in another")
    assert "more than 8%" in said
    assert "another encoder or projection" in said
    assert select(blobs(3, 20), 6).warnings == ()
    assert select(points, 6, clustering=found, strategy="tempered").warnings == ()


def test_clusters_that_are_known_are_taken_as_they_are() -> None:
    points = blobs(4, 10)
    known = clustering.describe(points, np.arange(40) % 2)

    start = select(points, 6, clustering=known)

    assert start.clusters.tolist() == known.clusters.tolist()
    assert start.order[:2].tolist() == known.medoids.tolist()


def test_a_bunched_choice_is_said() -> None:
    # Four clusters that share one centre: all medoids lie in the heap of 12 in the middle.
    middle = 0.01 * np.random.default_rng(0).normal(size=(12, 2))
    points = np.concatenate([middle, blobs(40, 1)])
    four = clustering.describe(points, np.arange(52) % 4)

    start = select(points, 4, clustering=four)

    assert (start.order[:4] < 12).all()
    [said] = start.warnings
    assert said.startswith("clustered batch: mean nearest-neighbour distance 0.0")


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_takes_the_scan_nearest_to_each_centre(seed: int) -> None:
    points = scattered(60, seed)

    start = select(points, 7, strategy="kmeans", seed=seed)

    assert start.k == 7
    for number in range(7):
        members = np.flatnonzero(start.clusters == number)
        distances = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        assert start.order[number] == members[np.argmin(distances)]


@pytest.mark.parametrize("seed", range(3))
def test_typical_takes_the_densest_place_of_each_cluster(seed: int) -> None:
    points = scattered(60, seed)
    distances = np.sort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)
    isolation = distances[:, 1:21].mean(axis=1)

    start = select(points, 5, strategy="typical", seed=seed)

    for number in range(5):
        members = np.flatnonzero(start.clusters == number)
        assert start.order[number] == members[np.argmin(isolation[members])]


@pytest.mark.parametrize("seed", range(3))
def test_coverage_equals_a_naive_greedy_cover(seed: int) -> None:
    points = scattered(50, seed)
    squares = ((points[:, None] - points) ** 2).sum(axis=2)
    near = np.exp(-squares / (2 * bandwidth(points, 6, seed=seed) ** 2))
    naive, covered = list[int](), np.zeros(50)
    for _ in range(50):
        gains = np.maximum(near - covered, 0).sum(axis=1)
        gains[naive] = -np.inf
        naive.append(int(np.argmax(gains)))
        covered = np.maximum(covered, near[naive[-1]])

    start = select(points, 6, strategy="coverage", seed=seed)

    assert start.order[:20].tolist() == naive[:20]


def test_a_stratified_draw_gives_each_cluster_its_share() -> None:
    points = np.concatenate([blobs(2, 30)[:45], blobs(3, 5) + 50])

    start = select(points, 12, strategy="stratified-random")

    chosen = np.bincount(start.clusters[start.order[:12]], minlength=start.k)
    assert chosen.tolist() == allocate(np.bincount(start.clusters), 12).tolist()
    other = select(points, 12, strategy="stratified-random", seed=1)
    assert set(other.order[:12]) != set(start.order[:12])


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
    assert allocate(np.array(sizes, int), total).tolist() == counts


@FEW
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 200))
def test_an_allocation_adds_up_and_never_exceeds_a_cluster(sizes: list[int], more: int) -> None:
    counts = allocate(np.array(sizes), len(sizes) + more)

    assert counts.sum() == min(len(sizes) + more, sum(sizes))
    assert (counts >= 1).all()
    assert (counts <= sizes).all()


def test_an_allocation_below_one_each_is_refused() -> None:
    with pytest.raises(ValueError, match="1 scans for 2 clusters"):
        allocate(np.array([3, 3]), 1)


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
    assert "all scans look alike" in start.warnings[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "luck"}, "unknown cold start 'luck': choose one of medoids, kmeans"),
        ({"budget": 0}, "at least 1 scan"),
        ({"labelled": np.array([0, 1])}, "expected a mask"),
        ({"groups": np.zeros(3)}, r"expected a group per scan, \(4,\)"),
        ({"coordinates": np.zeros((3, 2))}, r"expected \(4, m\)"),
        ({"coordinates": np.full((4, 2), np.nan)}, "NaN or infinity"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_cure(change: dict[str, Any], message: str) -> None:
    pool = {"embeddings": np.zeros((4, 2)), "coordinates": np.zeros((4, 2)), "budget": 2}

    with pytest.raises(ValueError, match=message):
        cold_start.select(**{**pool, **change})
