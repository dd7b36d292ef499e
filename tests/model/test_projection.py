from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import pdist
from sklearn.manifold import trustworthiness

from model import projection

Array = npt.NDArray[Any]


def clusters(n: int = 90, d: int = 20, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    centres = 6 * rng.normal(size=(3, d))
    rows: Array = centres[np.arange(n) % 3] + rng.normal(size=(n, d))
    return rows.astype(np.float32)


@pytest.mark.parametrize("method", ["auto", "components", "none"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_the_embedding_itself_is_a_space_for_tiny_pools_too(n: int, method: str) -> None:
    fitted = projection.fit(clusters(n), method=method)

    assert len(fitted.coordinates) == n
    assert np.isfinite(fitted.coordinates).all()
    assert fitted.transform(clusters(6, seed=1)).shape == (6, fitted.coordinates.shape[1])


def test_the_embedding_itself_is_its_principal_components_scaled_to_length_one() -> None:
    embeddings = clusters()

    found = projection.fit(embeddings, method="none").coordinates

    centred = embeddings - embeddings.mean(axis=0)
    cosines = centred @ centred.T / np.outer(*2 * [np.linalg.norm(centred, axis=1)])
    assert found.shape == (90, 20)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert found @ found.T == pytest.approx(cosines, abs=1e-4)


@pytest.mark.parametrize(("method", "most"), [("components", 16), ("none", 50)])
def test_so_many_components_are_kept(method: str, most: int) -> None:
    embeddings = np.random.default_rng(0).normal(size=(80, 70))

    assert projection.fit(embeddings, method=method).coordinates.shape == (80, most)


def test_components_keep_the_distances_between_scans() -> None:
    embeddings = clusters(d=16)

    found = projection.fit(embeddings, method="components").coordinates

    assert pdist(found) == pytest.approx(pdist(embeddings), rel=1e-4)


@pytest.mark.parametrize(("distance", "chosen"), [(8.0, "components"), (0.0, "none")])
def test_lengths_are_kept_where_scans_fall_into_kinds(distance: float, chosen: str) -> None:
    rng = np.random.default_rng(0)
    kinds = distance * np.eye(20)[rng.integers(0, 3, 120)]
    embeddings = kinds + rng.normal(size=(120, 20))

    found, expected = (projection.fit(embeddings, method=name) for name in ("auto", chosen))

    assert np.array_equal(found.coordinates, expected.coordinates)


def test_a_perplexity_changes_the_map_and_a_wrong_one_is_refused() -> None:
    near, far = (projection.fit(clusters(), perplexity=value).coordinates for value in (5, 25))

    assert not np.allclose(near, far)
    with pytest.raises(ValueError, match="perplexity is 1: expected a number above 1"):
        projection.fit(clusters(), perplexity=1)


@pytest.mark.parametrize("method", ["tsne", "umap", "pca"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_a_tiny_pool_has_a_finite_map(n: int, method: str) -> None:
    embeddings = clusters(n)

    fitted = projection.fit(embeddings, method=method)

    assert fitted.coordinates.shape == (n, 2)
    assert fitted.coordinates.dtype == np.float32
    assert np.isfinite(fitted.coordinates).all()
    assert fitted.transform(clusters(6, seed=1)).shape == (6, 2)


@pytest.mark.seconds
@pytest.mark.parametrize("n", [5, 6, 12])
def test_a_small_pool_has_a_finite_tsne_map(n: int) -> None:
    assert np.isfinite(projection.fit(clusters(n)).coordinates).all()


@pytest.mark.parametrize("method", ["tsne", "umap", "pca"])
def test_one_feature_is_enough(method: str) -> None:
    embeddings = np.arange(8.0)[:, None]

    coordinates = projection.fit(embeddings, method=method).coordinates

    assert np.abs(np.diff(coordinates[:, 0])) == pytest.approx(1)
    assert (coordinates[:, 1] == 0).all()


@pytest.mark.parametrize("distinct", [1, 2, 5, 8])
def test_duplicate_rows_do_not_break_the_map(distinct: int) -> None:
    embeddings = np.repeat(clusters(distinct), 6, axis=0)

    coordinates = projection.fit(embeddings).coordinates

    assert np.isfinite(coordinates).all()
    if distinct < projection.FEWEST:
        assert np.ptp(coordinates.reshape(distinct, 6, 2), axis=1).max() < 1e-4


def test_equal_embeddings_lie_on_one_place() -> None:
    fitted = projection.fit(np.full((40, 7), 0.1, np.float32))

    assert not fitted.coordinates.any()
    assert not fitted.transform(np.zeros((2, 7))).any()


def test_tsne_keeps_neighbours_where_a_random_map_does_not() -> None:
    embeddings = clusters()

    fitted = projection.fit(embeddings)

    noise = np.random.default_rng(0).normal(size=(90, 2))
    assert trustworthiness(embeddings, fitted.coordinates, n_neighbors=10) > 0.9
    assert trustworthiness(embeddings, noise, n_neighbors=10) < 0.6


def test_a_seed_gives_one_map_and_the_embeddings_stay_as_they_were() -> None:
    embeddings = clusters()
    before = embeddings.copy()

    first, second = projection.fit(embeddings, seed=3), projection.fit(embeddings, seed=3)

    assert np.array_equal(first.coordinates, second.coordinates)
    assert np.array_equal(embeddings, before)


@pytest.mark.parametrize("method", ["auto", "tsne", "pca", "components", "none"])
def test_scans_of_the_pool_are_placed_where_they_lie(method: str) -> None:
    embeddings = clusters()

    fitted = projection.fit(embeddings, method=method)

    assert fitted.transform(embeddings[::-1]) == pytest.approx(fitted.coordinates[::-1], abs=1e-5)


def test_new_scans_join_their_neighbours() -> None:
    fitted = projection.fit(clusters(90))
    centres = np.array([fitted.coordinates[i::3].mean(axis=0) for i in range(3)])

    placed = fitted.transform(clusters(120)[90:])  # the same clusters, other scans

    nearest = np.linalg.norm(placed[:, None] - centres, axis=2).argmin(axis=1)  # (30, 3) -> (30,)
    assert nearest.tolist() == [0, 1, 2] * 10


@pytest.mark.parametrize("method", ["auto", "tsne", "pca", "components", "none"])
def test_a_saved_projection_places_scans_as_before(tmp_path: Path, method: str) -> None:
    fitted = projection.fit(clusters(), method=method)
    fitted.save(tmp_path / "map")

    loaded = projection.Projection.load(tmp_path / "map")

    new = clusters(12, seed=5)
    assert np.array_equal(loaded.coordinates, fitted.coordinates)
    assert loaded.warnings == fitted.warnings
    assert np.array_equal(loaded.transform(new), fitted.transform(new))


@pytest.fixture
def few_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of 150 scans is large: it is mapped through 60 landmarks, in parts."""
    monkeypatch.setattr("model.pool.LARGE", 60)
    monkeypatch.setattr("model.pool.SAMPLE", 50)
    monkeypatch.setattr(projection, "COMPONENTS", 10)
    monkeypatch.setattr(projection, "CHUNK", 32)


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.usefixtures("few_landmarks")
def test_a_large_pool_is_mapped_through_landmarks(method: str) -> None:
    embeddings = clusters(150)

    fitted = projection.fit(embeddings, method=method)

    assert len(fitted.anchors) == (60 if method == "tsne" else 0)
    assert trustworthiness(embeddings, fitted.coordinates, n_neighbors=10) > 0.85
    assert fitted.transform(embeddings) == pytest.approx(fitted.coordinates, abs=1e-4)


@pytest.mark.parametrize("method", ["auto", "tsne", "pca", "components", "none"])
@pytest.mark.usefixtures("few_landmarks")
def test_the_scans_beyond_the_landmarks_of_a_large_pool_are_scaled_too(method: str) -> None:
    rows = joined(150)

    fitted = projection.fit(rows, method=method, widths=(20, 8))

    assert fitted.transform(rows) == pytest.approx(fitted.coordinates, abs=1e-4)
    assert trustworthiness(rows * fitted.scale, fitted.coordinates, n_neighbors=10) > 0.8


def test_a_large_map_is_judged_by_scans_that_were_placed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.pool.LARGE", 60)
    monkeypatch.setattr("model.pool.SAMPLE", 50)
    judged: list[Array] = []

    def cosine(rows: Array) -> float:
        judged.append(rows)
        return 0.0

    monkeypatch.setattr("model.diagnostics.cosine", cosine)

    fitted = projection.fit(clusters(150), method="pca")

    landmarks = clusters(150)[projection._landmarks(150, 0)]
    seen = [any(np.array_equal(row, mark) for mark in landmarks) for row in judged[0]]
    assert len(seen) == 50
    assert 5 < sum(seen) < 45
    assert fitted.warnings == ()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.slow
def test_umap_keeps_neighbours_and_follows_the_seed() -> None:
    embeddings = np.concatenate([clusters(60), np.repeat(clusters(2), 10, axis=0)])

    first = projection.fit(embeddings, method="umap", seed=1)
    second = projection.fit(embeddings, method="umap", seed=1)

    assert np.array_equal(first.coordinates, second.coordinates)
    assert trustworthiness(embeddings, first.coordinates, n_neighbors=10) > 0.85
    assert np.isfinite(projection.fit(clusters(5), method="umap").coordinates).all()


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="'som': use one of auto, tsne, umap, pca, components, none"
    ):
        projection.fit(clusters(6), method="som")


def test_embeddings_that_are_not_numbers_are_refused_by_row() -> None:
    embeddings = clusters(6)
    embeddings[[2, 4], 1] = np.inf, np.nan

    with pytest.raises(ValueError, match="2 rows are NaN or infinite, first row 2"):
        projection.fit(embeddings)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(6,\): expected \(n, d\)"):
        projection.fit(np.zeros(6))
    with pytest.raises(ValueError, match="3 features, the map was fitted on 20"):
        projection.fit(clusters(6)).transform(np.zeros((2, 3)))


def joined(n: int = 90, seed: int = 0) -> Array:
    """Return embeddings of two parts: clusters in small units, and noise in large units."""
    noise = 1000 * np.random.default_rng(seed + 1).normal(size=(n, 8))
    return np.hstack([0.01 * clusters(n, 20, seed), noise]).astype(np.float32)


@pytest.mark.parametrize("method", ["auto", "pca", "components", "none"])
def test_parts_count_alike_on_a_map_whatever_their_units(method: str) -> None:
    rows, widths = joined(), (20, 8)
    other = rows * np.repeat(np.array([500, 0.002], np.float32), widths)

    one, two = (projection.fit(x, method=method, widths=widths) for x in (rows, other))

    assert np.abs(one.coordinates) == pytest.approx(np.abs(two.coordinates), abs=1e-3)


def test_without_widths_the_part_with_the_largest_numbers_decides() -> None:
    kinds = np.arange(90) % 3

    def separated(widths: tuple[int, ...]) -> float:
        points = projection.fit(joined(), method="pca", widths=widths).coordinates
        within = np.mean([points[kinds == kind].std(axis=0) for kind in range(3)])
        return float(within / points.std(axis=0).mean())

    assert separated(()) > 0.9
    assert separated((20, 8)) < 0.5


@pytest.mark.parametrize("method", ["auto", "tsne", "pca", "components", "none"])
def test_one_part_gives_exactly_the_map_without_widths(method: str) -> None:
    plain, single = (projection.fit(clusters(), method=method, widths=w) for w in ((), (20,)))

    assert np.array_equal(plain.coordinates, single.coordinates)


@pytest.mark.parametrize("method", ["auto", "tsne", "pca", "components", "none"])
def test_a_scan_of_several_parts_is_placed_on_itself_later_and_after_a_reload(
    method: str, tmp_path: Path
) -> None:
    rows = joined(40)
    fitted = projection.fit(rows, method=method, widths=(20, 8))
    fitted.save(tmp_path / "map.npz")

    again = projection.Projection.load(tmp_path / "map.npz").transform(rows[:7])

    assert again == pytest.approx(fitted.coordinates[:7], abs=1e-4)


@pytest.mark.parametrize("method", ["auto", "tsne", "pca", "components", "none"])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_tiny_and_equal_pools_of_several_parts_have_a_finite_map(n: int, method: str) -> None:
    fitted = projection.fit(np.ones((n, 28), np.float32), method=method, widths=(20, 8))

    assert len(fitted.coordinates) == n
    assert np.isfinite(fitted.coordinates).all()
    assert np.isfinite(fitted.transform(joined(3))).all()


def test_a_map_without_a_scale_of_an_earlier_release_is_read_as_it_was(tmp_path: Path) -> None:
    fitted = projection.fit(clusters(), method="pca")
    old = {name: value for name, value in vars(fitted).items() if name != "scale"}
    with (tmp_path / "map.npz").open("wb") as file:
        np.savez(file, **old)

    found = projection.Projection.load(tmp_path / "map.npz")

    assert np.array_equal(found.transform(clusters()), fitted.transform(clusters()))
