from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import manifold

from model import diagnostics, projection
from tests.model.planted import blobs


def test_an_encoder_that_sees_no_difference_is_said_with_value_threshold_and_remedy() -> None:
    embeddings = 1 + 0.01 * np.random.default_rng(0).normal(size=(40, 8))

    fitted = projection.fit(embeddings, method="none")

    [said] = fitted.warnings
    assert f"the median cosine between two scans is {float(fitted.cosine):.3f}" in said
    assert "above 0.98" in said
    assert "try another encoder" in said


def test_a_map_that_loses_neighbours_is_said_with_value_threshold_and_remedy() -> None:
    embeddings = np.random.default_rng(0).normal(size=(120, 60))

    flat, whole = (projection.fit(embeddings, method=method) for method in ("pca", "none"))

    [said] = flat.warnings
    assert f"trustworthiness of {float(flat.trustworthiness):.2f}, below 0.8" in said
    assert "projection none" in said
    assert whole.warnings == ()


def test_trust_is_that_of_ten_neighbours_and_unknown_below_21_scans() -> None:
    embeddings = np.random.default_rng(0).normal(size=(30, 5))
    plane = embeddings[:, :2]

    assert diagnostics.trustworthiness(embeddings, plane) == manifold.trustworthiness(
        embeddings, plane, n_neighbors=10
    )
    assert math.isnan(diagnostics.trustworthiness(embeddings[:20], plane[:20]))
    assert diagnostics.domain(math.nan, math.nan) == ()


def test_the_cosine_is_the_median_over_pairs() -> None:
    rows = np.array([[1.0, 0], [0, 2], [3, 0], [0, 0]])

    # Pairs: 0, 1, 0 of the first three, and 0 with the one that has no direction.
    assert diagnostics.cosine(rows) == 0
    assert diagnostics.cosine(rows[[0, 2]]) == pytest.approx(1)
    assert math.isnan(diagnostics.cosine(rows[:1]))


@pytest.mark.seconds
def test_a_clustered_batch_is_rare_in_random_batches_and_sure_in_a_heap() -> None:
    points, everyone = blobs(4, 25), np.arange(100)
    drawn = [np.random.default_rng(seed).permutation(100)[:8] for seed in range(60)]

    said = [bool(diagnostics.clustered_batch(points, batch, everyone)) for batch in drawn]

    assert sum(said) <= 9
    assert diagnostics.clustered_batch(points, np.arange(8), everyone)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_no_batch_of_one_nor_of_everything_is_bunched(size: int) -> None:
    assert diagnostics.clustered_batch(blobs(4, 25), np.arange(size), np.arange(100)) == ""


def test_an_unstable_choice_is_said_with_value_threshold_and_remedy() -> None:
    [said] = diagnostics.instability(0.31)

    assert "share 0.31 of their scans, below 0.5" in said
    assert "projection none or pca" in said
    assert diagnostics.instability(0.5) == ()
