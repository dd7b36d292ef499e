from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import StorageError
from backend.rounds.maps import embedding_map
from backend.rounds.maps.embedding_map import Map, Maps, _MapFit
from backend.storage import artifacts
from backend.storage.artifacts import ProjectFiles, Space
from backend.storage.embeddings import Place
from model.clustering import Clustering
from model.projection import Projection

SPACE = Space("pixels", "pca", 0)
BUDGET = 4


class Pool:
    """Scans with embeddings in chunks of two, as rounds write them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[int, Place] = {}

    def add(self, *ids: int, seed: int = 0) -> None:
        for start in range(0, len(ids), 2):
            part = ids[start : start + 2]
            name = f"{seed}-{part[0]}.npy"
            kinds = [np.full(6, 9.0 * (i % 3)) + np.random.default_rng(i).random(6) for i in part]
            artifacts.write_array(
                self.folder / "embeddings" / name, (np.array(kinds) + seed).astype(np.float32)
            )
            for row, i in enumerate(part):
                self.found[i] = Place(name, row)

    def current(self, space: Space = SPACE, budget: int = BUDGET) -> Map:
        return Maps(ProjectFiles(self.folder), self.found).current(space, budget)

    def places(self) -> dict[int, list[float]]:
        now = self.current()
        return dict(zip(now.ids, now.coordinates.tolist(), strict=True))


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    pool = Pool(tmp_path)
    pool.add(*range(1, 21))
    return pool


def test_embeddings_come_back_in_the_order_asked_for(pool: Pool) -> None:
    keeper = Maps(ProjectFiles(pool.folder), pool.found)

    rows = keeper.embeddings([5, 0])

    sixth, first = pool.found[6], pool.found[1]
    for row, found in zip(rows, (sixth, first), strict=True):
        assert (row == np.load(pool.folder / "embeddings" / found.chunk)[found.row]).all()
    assert keeper.embeddings([]).shape[0] == 0


def test_the_parts_of_embeddings_are_scaled_for_the_map_and_for_later_scans(pool: Pool) -> None:
    space, files = Space("statistics+pixels", "none", 0), ProjectFiles(pool.folder)
    drawn = Maps(files, pool.found, widths=(2, 4)).current(space, BUDGET)
    [name] = files.names("maps")
    fitted = files.read(name, Projection.load)
    rows = Maps(files, pool.found).embeddings(range(20)) * fitted.scale
    assert [np.sqrt(part.var(axis=0).sum()) for part in np.split(rows, [2], axis=1)] == (
        pytest.approx([1, 1])
    )

    pool.add(21, 22)
    later = Maps(files, pool.found, widths=(2, 4)).current(space, BUDGET)

    new = Maps(files, pool.found).embeddings([20, 21])
    assert np.array_equal(later.coordinates[:20], drawn.coordinates)
    assert np.array_equal(later.coordinates[20:], fitted.transform(new))


def test_an_encoder_of_several_parts_has_a_map_of_no_scans(pool: Pool) -> None:
    space = Space("statistics+pixels", "tsne", 0)
    assert not Maps(ProjectFiles(pool.folder), {}, widths=(2, 4)).current(space, BUDGET).ids


def test_a_map_of_the_first_release_stays(pool: Pool) -> None:
    before, files = pool.current(), ProjectFiles(pool.folder)
    [name] = files.names("maps")
    with np.load(pool.folder / name) as archive:
        old = {part: archive[part] for part in archive.files if part != "scale"}
    # A fit of today would have other coordinates.
    old["coordinates"] = old["coordinates"] + 1
    files.write(name, lambda file: np.savez(file, **old))

    assert np.array_equal(pool.current().coordinates, before.coordinates + 1)


def test_the_map_stays_where_it_is_while_the_pool_grows_by_a_quarter(pool: Pool) -> None:
    before = pool.places()

    pool.add(21, 22, 23, 24, 25)
    grown = pool.places()

    assert {i: grown[i] for i in before} == before
    assert len(grown) == 25


def test_the_map_is_fitted_again_when_the_pool_has_grown_by_more(pool: Pool) -> None:
    before = pool.places()

    pool.add(*range(21, 27))
    grown = pool.places()

    assert {i: grown[i] for i in before} != before
    pool.add(27)
    assert {i: place for i, place in pool.places().items() if i < 27} == grown


def test_the_map_is_fitted_again_when_few_of_its_scans_are_left(pool: Pool) -> None:
    before = pool.places()
    for i in range(5, 21):
        del pool.found[i]

    pool.add(21)
    assert {i: place for i, place in pool.places().items() if i < 5} == {
        i: before[i] for i in range(1, 5)
    }
    pool.add(22)

    assert {i: place for i, place in pool.places().items() if i < 5} != {
        i: before[i] for i in range(1, 5)
    }


def test_a_disk_without_room_is_an_error_with_the_mend(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*where: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)

    with pytest.raises(StorageError, match="no room to gather the embeddings"):
        pool.current()


TASKS = st.integers(-3, 40)


def map_of(ids: list[int]) -> Map:
    one = Clustering(np.zeros(len(ids), int), 1, np.nan, np.zeros(1, int))
    return Map(ids, np.zeros((len(ids), 2), np.float32), one, ())


@given(st.sets(TASKS).map(sorted), st.sets(TASKS))
def test_the_scans_among_some_tasks_are_those_in_the_set(ids: list[int], some: set[int]) -> None:
    assert map_of(ids).among(some).tolist() == [task in some for task in ids]


@given(st.sets(TASKS).map(sorted), st.dictionaries(TASKS, st.floats(allow_nan=False)))
def test_scans_get_their_values_and_the_others_none(
    ids: list[int], known: dict[int, float]
) -> None:
    plain = np.array([known.get(task, np.nan) for task in ids])

    np.testing.assert_array_equal(map_of(ids).values(known), plain)


@given(st.sets(TASKS, min_size=1).map(sorted), st.sets(TASKS))
def test_a_map_without_some_tasks_has_the_others_in_their_order(
    ids: list[int], some: set[int]
) -> None:
    left = [task for task in ids if task not in some]
    if left:
        assert map_of(ids).without(some).ids == left


def test_a_map_without_some_scans_keeps_the_others_in_place_and_cluster(pool: Pool) -> None:
    whole = pool.current()

    part = whole.without({3, 4})

    assert part.ids == [1, 2, *range(5, 21)]
    assert part.coordinates.tolist() == whole.coordinates[[0, 1, *range(4, 20)]].tolist()
    assert sorted(np.bincount(part.clustering.clusters)) == [5, 6, 7]
    assert part.without({99}) is part


def test_a_new_scan_joins_the_scans_like_it(pool: Pool) -> None:
    pool.add(21, 22, 23)

    now = pool.current()

    kinds = dict(zip(now.ids, now.clustering.clusters.tolist(), strict=True))
    assert now.clustering.k == 3
    assert [kinds[21], kinds[22], kinds[23]] == [kinds[3], kinds[1], kinds[2]]


def test_a_scan_with_another_image_moves_and_one_that_left_moves_nobody(pool: Pool) -> None:
    before = pool.places()

    pool.add(4, seed=5)
    del pool.found[7]
    after = pool.places()

    assert after[4] != before[4]
    assert {i: after[i] for i in after if i != 4} == {
        i: before[i] for i in before if i not in (4, 7)
    }
    now = pool.current()
    assert len(now.clustering.clusters) == 19
    assert max(now.clustering.medoids) < 19


def test_a_cluster_that_lost_all_its_scans_is_gone(pool: Pool) -> None:
    pool.current()
    pool.found = {i: found for i, found in pool.found.items() if i % 3}

    now = pool.current()

    assert now.clustering.k == 2
    assert set(now.clustering.clusters) == {0, 1}
    assert len(now.clustering.medoids) == 2


def test_the_same_scans_give_the_same_map_and_clusters(pool: Pool) -> None:
    first, second = pool.current(), pool.current()

    assert np.array_equal(first.coordinates, second.coordinates)
    assert np.array_equal(first.clustering.clusters, second.clustering.clusters)
    assert first.clustering.silhouette == second.clustering.silhouette
    assert first.clustering.strays == second.clustering.strays


def test_another_budget_changes_the_clusters_and_not_the_map(pool: Pool) -> None:
    wide, narrow = pool.current(), pool.current(budget=2)

    assert np.array_equal(wide.coordinates, narrow.coordinates)
    assert (wide.clustering.k, narrow.clustering.k) == (3, 2)


@pytest.mark.parametrize("other", [Space("pixels", "pca", 1), Space("pixels", "none", 0)])
def test_every_space_has_a_map_of_its_own(pool: Pool, other: Space) -> None:
    pool.current()

    pool.current(other)

    assert len(list((pool.folder / "maps").iterdir())) == 2


@pytest.mark.parametrize("folder", ["maps", "clusters"])
@pytest.mark.parametrize("left", [0, 100, 400])
def test_a_damaged_file_is_made_anew(pool: Pool, folder: str, left: int) -> None:
    before = pool.current()
    [path] = (pool.folder / folder).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:left])

    after = pool.current()

    assert np.array_equal(after.coordinates, before.coordinates)
    assert np.array_equal(after.clustering.clusters, before.clustering.clusters)
    assert len(path.read_bytes()) == len(whole)


def test_clusters_that_a_former_release_judged_otherwise_are_found_anew(pool: Pool) -> None:
    before = pool.current()
    [path] = (pool.folder / "clusters").iterdir()
    with np.load(path) as archive:
        former = {name: archive[name] for name in archive.files if name != "strays"}
    np.savez(path, **former, threshold=2.0)

    after = pool.current()

    assert np.array_equal(after.clustering.clusters, before.clustering.clusters)
    assert after.clustering.strays == before.clustering.strays


def test_the_warnings_of_a_map_are_kept_with_it(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.diagnostics.MOST_COSINE", 0.1)
    [first] = pool.current().warnings

    [second] = pool.current().warnings

    assert first == second


# -- scans that are erased ------------------------------------------------------------------------


def left_of(pool: Pool) -> dict[str, set[int]]:
    """Return the rows that are still scans', for every file that ever held some."""
    left: dict[str, set[int]] = {path.name: set() for path in pool.folder.glob("embeddings/*")}
    for found in pool.found.values():
        left[found.chunk].add(found.row)
    return left


def content(pool: Pool, kind: str) -> bytes:
    [path] = (pool.folder / kind).iterdir()
    return path.read_bytes()


@pytest.mark.seconds
@pytest.mark.parametrize("projection", ["tsne", "pca", "none"])
def test_an_erased_scan_is_in_no_map_and_moves_nobody(pool: Pool, projection: str) -> None:
    space = Space("pixels", projection, 0)
    files, before = ProjectFiles(pool.folder), pool.current(space)
    clusters = content(pool, "clusters")
    gone = pool.found.pop(7)
    vector = np.load(pool.folder / "embeddings" / gone.chunk)[gone.row].tobytes()
    place = before.coordinates[before.ids.index(7)].tobytes()
    assert place in content(pool, "maps")
    assert (vector in content(pool, "maps")) == (projection == "tsne")
    expected = pool.current(space)
    embedding_map.erase(files, left_of(pool))
    erased = content(pool, "maps")
    assert place not in erased
    assert vector not in erased
    after = pool.current(space)
    assert np.array_equal(after.coordinates, expected.coordinates)
    assert np.array_equal(after.clustering.clusters, expected.clustering.clusters)
    assert content(pool, "clusters") == clusters
    embedding_map.erase(files, left_of(pool))
    assert content(pool, "maps") == erased, "done twice it changes nothing"


def test_maps_of_other_files_are_left_alone(pool: Pool) -> None:
    pool.current()
    before = content(pool, "maps")
    embedding_map.erase(ProjectFiles(pool.folder), {"elsewhere.npy": set()})
    assert content(pool, "maps") == before


def test_a_map_goes_with_the_last_of_its_scans_and_when_it_is_damaged(pool: Pool) -> None:
    files = ProjectFiles(pool.folder)
    pool.current()
    pool.found.clear()
    embedding_map.erase(files, left_of(pool))
    assert files.names("maps") == []
    files.write("maps/x.npz", lambda file: file.write(b"no map"))
    embedding_map.erase(files, {"elsewhere.npy": set()})
    assert files.names("maps") == []


@pytest.mark.seconds
@given(gone=st.sets(st.integers(0, 11), max_size=11), landmarks=st.integers(5, 12))
def test_whatever_is_erased_the_map_holds_only_what_the_others_have(
    gone: set[int], landmarks: int
) -> None:
    rng = np.random.default_rng(len(gone))
    drawn, anchors = rng.random((12, 2)).astype(np.float32), rng.random((landmarks, 3))
    nothing = np.empty((0, 3))
    whole = Projection(drawn, np.zeros(3), nothing, anchors, drawn[:landmarks])
    fitted = _MapFit([f"a.npy/{row}" for row in range(12)], whole)
    stay = [row for row in range(12) if row not in gone]
    found = fitted.without(np.isin(np.arange(12), list(gone)))
    if found is None:
        assert min(stay) >= landmarks, "some scan is left that others can be placed by"
        return
    assert found.scans == fitted.scans
    assert np.array_equal(found.projection.coordinates[stay], drawn[stay])
    assert np.isin(found.projection.coordinates, drawn[stay]).all()
    pairs = zip(found.projection.anchors, found.projection.places, strict=True)
    known = {(anchors[i].tobytes(), drawn[i].tobytes()) for i in stay if i < landmarks}
    assert {(anchor.tobytes(), place.tobytes()) for anchor, place in pairs} == known
