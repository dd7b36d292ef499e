from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from model import clustering, projection
from tests.model.planted import blobs, clear_blobs, coarse_pools, sheet

Array = npt.NDArray[Any]


@pytest.mark.seconds
@settings(max_examples=25)
@given(coarse_pools())
def test_k_is_the_silhouette_maximum_and_medoids_have_the_least_summed_distance(
    pool: dict[str, Any],
) -> None:
    points = pool["coordinates"].astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, "_strays", lambda *given: 0.0)
        found = clustering.cluster(points, 8, seed=pool["seed"])

    scores = {1: -1.0}
    for k in range(2, min(8, len(points) - 1, len(np.unique(points, axis=0))) + 1):
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


@pytest.mark.parametrize("number", [2, 3, 5])
def test_planted_clusters_are_found_and_no_collapse(number: int) -> None:
    found = clustering.cluster(blobs(number, 24), 10)

    assert found.k == number
    assert not found.collapsed
    assert found.strays == 0


@pytest.mark.seconds
@pytest.mark.parametrize("seed", range(3))
def test_one_kind_of_scan_collapses_to_one_cluster(seed: int) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(150, 32)).astype(np.float32)
    points = projection.fit(embeddings, seed=seed).coordinates.astype(np.float64)

    found = clustering.cluster(points, 10, seed=seed)

    assert found.collapsed
    assert found.k == 1
    assert found.strays > clustering.MOST_STRAYS
    assert not found.clusters.any()


SIZES = (60,) * 11 + (120,)


@pytest.mark.slow
def test_most_curved_sheets_have_no_clusters() -> None:
    found = [_laid_out(sheet(n, seed), seed) for seed, n in enumerate(SIZES)]

    assert sum(one.collapsed for one in found) >= 11


@pytest.mark.slow
def test_most_pools_of_clear_blobs_have_clusters() -> None:
    found = [_laid_out(clear_blobs(3 + seed % 6, n, seed), seed) for seed, n in enumerate(SIZES)]

    assert sum(one.collapsed for one in found) <= 1


def _laid_out(embeddings: Array, seed: int) -> clustering.Clustering:
    """The clusters of a pool on its t-SNE map."""
    points = projection.fit(embeddings, seed=seed).coordinates
    return clustering.cluster(points.astype(np.float64), 10, seed=seed)


@given(coarse_pools(), st.integers(1, 4))
def test_strays_are_the_nearest_scans_of_other_clusters_one_less_than_the_own_has(
    pool: dict[str, Any], number: int
) -> None:
    assume(len(pool["coordinates"]) > 1)
    rng = np.random.default_rng(pool["seed"])
    points = pool["coordinates"] + rng.random(pool["coordinates"].shape)  # no ties
    clusters = rng.integers(0, number, len(points))
    naive = []
    for row, own in enumerate(clusters):
        others = np.delete(np.arange(len(points)), row)
        order = others[np.argsort(np.linalg.norm(points[others] - points[row], axis=1))]
        nearest = order[: max(np.sum(clusters == own) - 1, 1)]
        naive.append(np.mean(clusters[nearest] != own))

    assert clustering._strays(points, clusters, 0) == pytest.approx(np.mean(naive))


@pytest.mark.seconds
@pytest.mark.parametrize("budget", [1, 2, 4, 10])
def test_whether_a_map_has_clusters_does_not_depend_on_the_budget(budget: int) -> None:
    several = clustering.cluster(blobs(8, 20), budget)
    one_kind = clustering.cluster(np.random.default_rng(0).random((150, 2)), budget)

    assert not several.collapsed
    assert several.k <= budget
    assert one_kind.collapsed
    assert one_kind.k == 1


def test_duplicates_of_a_few_scans_are_clusters_of_their_own() -> None:
    found = clustering.cluster(np.repeat(np.array([[0.0, 0], [1, 0], [0, 3]]), 10, axis=0), 10)

    assert found.k == 3
    assert found.strays == 0


def test_the_bound_on_k_grows_with_the_pool() -> None:
    assert [clustering.most_clusters(n) for n in (0, 2, 100, 1_000, 1_000_000)] == [
        5, 5, 34, 50, 100,
    ]  # fmt: skip


def test_a_pool_judged_on_samples_shows_the_same_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.pool.LARGE", 60)
    monkeypatch.setattr("model.pool.SAMPLE", 45)

    found = clustering.cluster(blobs(3, 70), 6)

    assert found.k == 3
    assert sorted(np.bincount(found.clusters)) == [70, 70, 70]
    assert {medoid // 70 for medoid in found.medoids} == {0, 1, 2}


@pytest.mark.parametrize("seed", range(12))
def test_on_a_sample_too_a_collapse_is_one_cluster_and_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("model.pool.LARGE", 60)
    monkeypatch.setattr("model.pool.SAMPLE", 40)
    points = np.random.default_rng(seed).random((150, 2))

    found = clustering.cluster(points, 4, seed=seed)

    assert found.collapsed == (found.k == 1)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_pool_too_small_to_split_is_one_cluster(n: int) -> None:
    found = clustering.cluster(np.arange(2.0 * n).reshape(n, 2), 5)

    assert found.k == min(n, 1)
    assert math.isnan(found.silhouette)
    assert not found.collapsed


def test_a_partition_has_as_many_clusters_as_asked_or_as_there_are_places() -> None:
    points = blobs(3, 10)

    assert np.bincount(clustering.partition(points, 5)).size == 5
    assert np.bincount(clustering.partition(np.repeat(np.eye(2), 4, axis=0), 5)).size == 2


def test_centroids_are_the_means_of_clusters() -> None:
    points = blobs(2, 6)

    means = clustering.centroids(points, np.repeat([0, 1], 6))

    assert means == pytest.approx(np.array([points[:6].mean(axis=0), points[6:].mean(axis=0)]))
