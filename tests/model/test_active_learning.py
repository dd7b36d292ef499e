from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import acquisition, clustering, cold_start
from model.active_learning import Decision, SelectionOptions, decide, reasons

Array = npt.NDArray[Any]

FEW = settings(max_examples=40)


def pool(n: int = 40, seed: int = 0) -> tuple[Array, Array]:
    """Embeddings, and a map of two clusters, 3 : 1."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 2)) + 12 * (np.arange(n) % 4 == 0)[:, None]
    return rng.normal(size=(n, 8)).astype(np.float32), points.astype(np.float32)


def mask(n: int, *rows: int) -> Array:
    return np.isin(np.arange(n), rows)


@pytest.mark.slow
@FEW
@given(st.integers(0, 12), st.integers(0, 999), st.booleans(), st.integers(0, 6), st.booleans())
def test_a_decision_orders_the_unlabelled_pool_and_touches_no_input(
    n: int, seed: int, scored: bool, budget: int, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    options = SelectionOptions(
        cold_start_budget=budget,
        batch_size=3,
        cold_start=str(rng.choice(list(cold_start.STRATEGIES))),
        acquisition=str(rng.choice(list(acquisition.STRATEGIES))),
    )
    inputs: dict[str, Any] = {
        "embeddings": rng.normal(size=(n, 3)),
        "labelled": rng.random(n) < rng.choice([0, 0.5, 1]),
        "uncertainty": rng.integers(0, 3, n) / 2 if scored else None,
        "coordinates": rng.integers(0, 3, (n, 2)).astype(np.float32),
        "groups": rng.integers(0, 3, n) if grouped else None,
    }
    before = {key: np.copy(value) for key, value in inputs.items() if value is not None}

    decision, again = (decide(options=options, **inputs) for _ in range(2))

    assert sorted(decision.order) == np.flatnonzero(~inputs["labelled"]).tolist()
    assert np.array_equal(decision.order, again.order)
    for term in (decision.utility, decision.uncertainty, decision.diversity, decision.control):
        assert term.shape == decision.order.shape
    assert decision.clusters.shape == (n,)
    assert decision.medoids.shape == (decision.k,)
    assert len(reasons(decision)) == len(decision.order)
    assert all(np.array_equal(value, inputs[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("labels", "scored", "phase"),
    [(0, True, "cold-start"), (3, True, "cold-start"), (4, True, "acquisition"),
     (4, False, "cold-start"), (40, True, "acquisition")],
)  # fmt: skip
def test_the_cold_start_lasts_until_its_budget_is_labelled_and_a_model_speaks(
    labels: int, scored: bool, phase: str
) -> None:
    embeddings, points = pool()
    uncertainty = np.linspace(0, 1, 40) if scored else None
    options = SelectionOptions(cold_start_budget=4)

    decision = decide(
        embeddings, np.arange(40) < labels, options, uncertainty=uncertainty, coordinates=points
    )

    assert decision.phase == phase
    assert np.isnan(decision.utility).all() == (phase == "cold-start" or labels == 40)


def test_a_cold_start_is_that_of_cold_start_on_a_fitted_map() -> None:
    embeddings, _ = pool(12)
    options = SelectionOptions(cold_start_budget=5, projection="pca", seed=2)

    decision = decide(embeddings, mask(12, 3), options)

    start = cold_start.select(embeddings, 5, projection="pca", labelled=mask(12, 3), seed=2)
    assert decision.order.tolist() == start.order.tolist()
    assert np.array_equal(decision.map, start.map)
    assert (decision.k, decision.warnings) == (start.k, start.warnings)


def test_what_is_wrong_with_the_map_is_said_in_both_phases() -> None:
    embeddings = 1 + 0.001 * np.random.default_rng(0).normal(size=(30, 6))
    options = SelectionOptions(cold_start_budget=2, projection="none")

    early = decide(embeddings, mask(30), options)
    late = decide(embeddings, mask(30, 0, 1), options, uncertainty=np.linspace(0, 1, 30))

    assert (early.phase, late.phase) == ("cold-start", "acquisition")
    for decision in (early, late):
        assert decision.warnings[0].startswith("domain: the median cosine")


def test_an_automatic_alpha_is_told_with_the_decision() -> None:
    embeddings, points = pool()
    options = SelectionOptions(cold_start_budget=2, alpha="auto")
    known: dict[str, Any] = {"uncertainty": np.linspace(0, 1, 40), "coordinates": points}

    few, many = (decide(embeddings, np.arange(40) < n, options, **known).alpha for n in (2, 30))

    assert 1 > few > many > 0
    assert np.isnan(decide(embeddings, mask(40), options, **known).alpha)


def test_an_acquisition_is_that_of_rank_with_the_clusters_it_was_given() -> None:
    embeddings, points = pool()
    uncertainty = np.random.default_rng(1).random(40)
    labelled, clusters = mask(40, 1, 2, 3, 4), clustering.describe(points, np.arange(40) % 2)
    options = SelectionOptions(cold_start_budget=4, alpha=0.8, batch_size=5, random_fraction=0.4)
    known: dict[str, Any] = {"uncertainty": uncertainty, "coordinates": points}

    decision = decide(embeddings, labelled, options, clusters=clusters, **known)
    bare = decide(embeddings, labelled, options, **known)

    ranking = acquisition.rank(
        uncertainty, points, labelled, alpha=0.8, batch=5, random_fraction=0.4
    )
    assert decision.order.tolist() == ranking.order.tolist() == bare.order.tolist()
    assert decision.utility.tolist() == ranking.utility.tolist()
    assert decision.clusters.tolist() == clusters.clusters.tolist()
    assert bare.k == 2
    assert bare.clusters.tolist() == (np.arange(40) % 4 == 0).astype(int).tolist()


def test_a_budget_of_zero_still_begins_somewhere() -> None:
    embeddings, points = pool(6)

    decision = decide(
        embeddings, mask(6), SelectionOptions(cold_start_budget=0), coordinates=points
    )

    assert decision.phase == "cold-start"
    assert decision.order[0] == decision.medoids[0]


@pytest.mark.seconds
def test_the_loop_labels_every_scan_once() -> None:
    embeddings, points = pool(30)
    labelled, options = mask(30), SelectionOptions(cold_start_budget=6, batch_size=4)
    phases = []

    while not labelled.all():
        decision = decide(
            embeddings, labelled, options, uncertainty=1.0 - labelled, coordinates=points
        )
        phases.append(decision.phase)
        labelled[decision.order[:4]] = True

    assert phases == ["cold-start"] * 2 + ["acquisition"] * 6


def test_a_cold_start_says_which_scans_are_medoids_and_which_lie_far() -> None:
    embeddings, points = pool(8)
    options = SelectionOptions(cold_start_budget=3)
    clusters = np.array([1, 0, 0, 0, 1, 0, 0, 0])

    start = decide(embeddings, mask(8), options, coordinates=points)
    later = decide(embeddings, mask(8, start.order[0]), options, coordinates=points)
    one_group = decide(
        embeddings, mask(8), options, coordinates=points,
        groups=np.where(np.isin(np.arange(8), start.medoids), -1, np.arange(8)),
    )  # fmt: skip

    assert start.clusters.tolist() == clusters.tolist()
    assert reasons(start)[:3] == [
        "medoid of cluster 0 (6 scans)",
        "medoid of cluster 1 (2 scans)",
        "farthest from the scans chosen in cluster 0",
    ]
    assert reasons(later)[:2] == reasons(start)[1:3]
    assert reasons(one_group)[1] == "nearest to the medoid of cluster 1 in an untouched group"


def test_an_acquisition_says_the_two_terms_and_their_sum() -> None:
    none = np.empty(0)
    decision = Decision(
        "acquisition", "entropy-diversity", np.array([7, 3]), 2, np.array([0.757, 0.1]),
        np.array([0.91, 0]), np.array([0.4, 0]), np.array([False, True]), 0.3,
        none, none, 0, np.nan, none, (),
    )  # fmt: skip

    assert reasons(decision) == [
        "uncertainty 0.91, distance 0.40: score 0.76",
        "drawn at random, as a control",
    ]


@pytest.mark.parametrize("phase", ["cold-start", "acquisition"])
def test_tempered_coverage_says_how_many_scans_are_alike_and_how_many_labelled(phase: str) -> None:
    points = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [50.0, 50.0]], [5, 4, 2, 1], axis=0)
    options = SelectionOptions(
        cold_start_budget=9 if phase == "cold-start" else 1, cold_start="tempered",
        acquisition="tempered", batch_size=11,
    )  # fmt: skip

    decision = decide(
        points, mask(12, 5, 6), options, coordinates=points, uncertainty=np.full(12, 0.5)
    )

    assert decision.phase == phase
    said = dict(zip(decision.order.tolist(), reasons(decision), strict=True))
    assert said[0].startswith("covers 4 similar scans, of which none is labelled")
    assert said[7].startswith("covers 3 similar scans, of which 2 are labelled")
    assert said[9].startswith("covers 1 similar scan, which is not labelled")
    assert said[11].startswith("covers no similar scan")


@pytest.mark.parametrize("start", cold_start.STRATEGIES)
def test_every_cold_start_gives_its_reasons_in_words(start: str) -> None:
    embeddings, points = pool()
    options = SelectionOptions(cold_start_budget=4, cold_start=start)

    said = reasons(decide(embeddings, mask(40), options, coordinates=points))

    assert len(said) == 40
    assert not [words for words in said if "{" in words or not words]
