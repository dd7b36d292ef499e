"""Tempered coverage, in the cold start and after it: small modes count, scans alone do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition, clustering, cold_start
from model.kernels import Coverage, bandwidth, covered_share
from tests.model.planted import blobs

Array = npt.NDArray[Any]

FEW = settings(max_examples=25)


def start(points: Array, budget: int, strategy: str = "tempered", **more: Any) -> list[int]:
    one = clustering.describe(points, np.zeros(len(points), int))  # not used, and slow to find
    found = cold_start.select(
        points, budget, strategy=strategy, coordinates=points, clustering=one, **more
    )
    return [int(row) for row in found.order]


def naive_weights(points: Array, width: float) -> Array:
    near = np.exp(-((points[:, None] - points) ** 2).sum(axis=2) / (2 * width**2))
    r = near.sum(axis=1)
    weights: Array = r**-0.75 * (r - 1) / (r - 1 + 5)
    return weights


@st.composite
def pools_with_loners(draw: st.DrawFn) -> tuple[Array, int]:
    """A few modes, and scans far from them and from each other; shuffled. Returns points, modes."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    sizes = draw(st.lists(st.integers(4, 20), min_size=2, max_size=5))
    centres = blobs(len(sizes), 1)
    modes = np.repeat(centres, sizes, axis=0) + rng.normal(size=(sum(sizes), 2))
    loners = np.array([[300, 0], [0, 300], [-300, -300]])[: draw(st.integers(1, 3))]
    return np.concatenate([modes, loners]), len(modes)


@pytest.mark.seconds
@FEW
@given(pool=pools_with_loners(), budget=st.integers(1, 12), order=st.randoms())
def test_a_scan_without_look_alikes_is_never_first(
    pool: tuple[Array, int], budget: int, order: Any
) -> None:
    points, modes = pool
    rows = list(range(len(points)))
    order.shuffle(rows)

    assert rows[start(points[rows], budget)[0]] < modes


def test_scans_that_all_stand_alone_are_ordered_too() -> None:
    far_apart = 1e6 * np.eye(6)

    assert sorted(start(far_apart, 4)) == list(range(6))


@pytest.mark.parametrize("seed", range(3))
def test_a_small_tight_mode_is_found_that_plain_coverage_misses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wide, small = rng.normal(0, 4, (190, 2)), rng.normal((0, 14), 0.3, (10, 2))
    points = np.concatenate([wide, small])  # 5 % of the pool, beyond the rim of one wide mode

    assert not any(row >= 190 for row in start(points, 3, "coverage")[:3])
    assert any(row >= 190 for row in start(points, 3)[:3])


def test_a_mode_of_n_equal_scans_counts_as_the_fourth_root_of_n() -> None:
    points = np.repeat([[0.0, 0.0], [9.0, 0.0]], [16, 81], axis=0)
    coverage = Coverage(points, 0.0)

    coverage.temper(few=0)
    coverage.cover(points[:1])

    assert coverage.share == pytest.approx(2 / (2 + 3))


@FEW
@given(seed=st.integers(0, 10_000), size=st.integers(0, 40), width=st.floats(0, 20))
def test_without_temper_and_loners_the_objective_is_plain_coverage(
    seed: int, size: int, width: float
) -> None:
    points = np.random.default_rng(seed).integers(0, 6, (size, 2)).astype(float)
    plain, tempered = Coverage(points, width), Coverage(points, width)

    tempered.temper(tau=0, few=0)

    for coverage in (plain, tempered):
        coverage.cover(points[:2])
    assert tempered.gains(points) == pytest.approx(plain.gains(points), rel=1e-5, abs=1e-7)


@pytest.mark.seconds
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), order=st.randoms())
def test_another_order_of_the_rows_chooses_the_same_scans(seed: int, order: Any) -> None:
    points = blobs(3, 20, seed)[np.r_[0:20, 20:34, 40:47]]
    rows = list(range(len(points)))
    order.shuffle(rows)

    assert [rows[row] for row in start(points[rows], 3)[:3]] == start(points, 3)[:3]


def test_duplicates_come_by_row() -> None:
    points = np.repeat(blobs(2, 3), 4, axis=0)

    order = start(points, 6)

    for place in range(6):
        copies = [row for row in order if row // 4 == place]
        assert copies == sorted(copies)


@pytest.mark.parametrize("seed", range(3))
def test_the_cold_start_equals_a_naive_greedy_cover(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(50, 2))
    width = bandwidth(points, 6, seed=seed)
    near = np.exp(-((points[:, None] - points) ** 2).sum(axis=2) / (2 * width**2))
    weights, naive, covered = naive_weights(points, width), list[int](), np.zeros(50)
    for _ in range(20):
        gains = (np.maximum(near - covered, 0) * weights).sum(axis=1)
        gains[naive] = -np.inf
        naive.append(int(np.argmax(gains)))
        covered = np.maximum(covered, near[naive[-1]])

    assert start(points, 6, seed=seed)[:20] == naive


@pytest.mark.parametrize("seed", range(3))
def test_the_acquisition_equals_a_naive_greedy_cover(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, uncertainty = rng.normal(size=(45, 2)), rng.random(45)
    labelled = np.arange(45) < 5
    width = bandwidth(points[~labelled], 15, seed=seed)
    near = np.exp(-((points[:, None] - points) ** 2).sum(axis=2) / (2 * width**2))
    share = covered_share(points, points[labelled], seed=seed)
    weights = naive_weights(points, width) * np.where(labelled, 0, uncertainty**share)
    covered, naive = near[labelled].max(axis=0), list[int]()
    for _ in range(10):
        gains = (np.maximum(near - covered, 0) * weights).sum(axis=1)
        gains[[*naive, *range(5)]] = -np.inf
        naive.append(int(np.argmax(gains)))
        covered = np.maximum(covered, near[naive[-1]])

    order = acquisition.rank(
        uncertainty, points, labelled, strategy="tempered", batch=10, seed=seed
    ).order

    assert 0 < share < 1
    assert order[:10].tolist() == naive


def test_without_a_label_the_acquisition_chooses_as_the_cold_start() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3))
    uncertainty = np.random.default_rng(1).random(60)

    order = acquisition.rank(
        uncertainty, points, np.zeros(60, bool), strategy="tempered", batch=10
    ).order

    assert order[:10].tolist() == start(points, 10)[:10]


def test_with_the_pool_covered_the_uncertain_of_two_like_modes_comes_first() -> None:
    points = blobs(6, 20)
    labelled = np.arange(120) % 4 == 0
    uncertainty = np.where(np.arange(120) // 20 == 4, 0.9, 0.1)

    def share_of_the_uncertain(rule: str) -> float:
        ranking = acquisition.rank(uncertainty, points, labelled, strategy=rule, batch=10)
        return float(np.mean(ranking.order[:10] // 20 == 4))

    assert share_of_the_uncertain("tempered") > 0.4
    assert share_of_the_uncertain("tempered") <= share_of_the_uncertain("entropy")


def test_a_sample_stands_for_the_look_alikes_of_a_large_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = np.repeat([[0.0, 0.0], [9.0, 0.0]], [300, 100], axis=0)
    whole = Coverage(points, 1.0)
    whole.temper()
    monkeypatch.setattr("model.pool.LARGE", 100)
    monkeypatch.setattr("model.pool.SAMPLE", 80)
    part = Coverage(points, 1.0)

    part.temper()

    gains = whole.gains(points[[0, -1]]), part.gains(points[[0, -1]])
    assert gains[1] == pytest.approx(gains[0], rel=0.15)


@given(st.integers(0, 200))
@settings(max_examples=10, deadline=None)
def test_labels_do_not_change_the_order_of_a_very_large_pool_with_small_sources(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, sources = rng.normal(size=(60, 2)), np.minimum(rng.integers(0, 30, 60), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.pool.LARGE", 20)
        patch.setattr("model.pool.SAMPLE", 20)
        patch.setattr("model.kernels.COMPARED", 25)

        order = start(points, 8, sources=sources)

        for labels in range(1, 8):
            labelled = np.zeros(60, bool)
            labelled[order[:labels]] = True
            rest = start(points, 8, sources=sources, labelled=labelled)
            assert rest[: 8 - labels] == order[labels:8]
