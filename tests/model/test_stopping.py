from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import stopping
from model.stopping import LEAST_POINTS, LEAST_SCANS, Curve, Point

BATCH, ENOUGH = 10, 0.005
LABELS = np.arange(10, 90, 10)


def curve(
    a: float, b: float, c: float, *, noise: float = 0.0, scans: int = 40, seed: int = 0
) -> Curve:
    """Return the curve a - b n^-c of scans that are easy or hard by chance."""
    rng = np.random.default_rng(seed)
    means = a - b * LABELS**-c + rng.normal(0, noise, len(LABELS))
    apart = rng.normal(0, 0.02, scans)
    return Curve(LABELS, means[:, None] + (apart - apart.mean()), scans)


@pytest.mark.parametrize(("a", "b", "c"), [(0.95, 1.0, 1.0), (0.9, 0.5, 0.5), (0.99, 3.0, 1.5)])
def test_the_gain_of_an_exact_curve_is_found(a: float, b: float, c: float) -> None:
    found = stopping.forecast(curve(a, b, c), BATCH)
    assert found is not None
    assert found.gain.value == pytest.approx(b * (80.0**-c - 90.0**-c), abs=3e-4)
    assert found.gain.low <= found.gain.value <= found.gain.high
    assert found.labels == (*LABELS, 90, 100, 110)
    middle = [interval.value for interval in found.band]
    np.testing.assert_allclose(middle, a - b * np.array(found.labels) ** -c, atol=3e-3)


def test_a_steep_curve_gains_and_a_flat_one_does_not() -> None:
    assert not stopping.no_more_gain(curve(1.0, 2.0, 0.5), BATCH, ENOUGH)
    assert stopping.no_more_gain(curve(0.95, 3.0, 1.5), BATCH, ENOUGH)


def test_the_sign_needs_two_batches_in_a_row() -> None:
    of = curve(0.95, 3.0, 1.5)
    short = Curve(of.labels[:LEAST_POINTS], of.scores[:LEAST_POINTS], of.scans)
    first = stopping.forecast(short, BATCH)
    assert first is not None
    assert not stopping.no_more_gain(short, BATCH, first.gain.high + 0.1)


def test_networks_that_turn_out_by_chance_widen_the_interval() -> None:
    calm, noisy = (
        stopping.forecast(curve(0.95, 1.0, 1.0, noise=noise), BATCH) for noise in (0.0, 0.01)
    )
    assert calm is not None
    assert noisy is not None
    assert noisy.gain.high - noisy.gain.low > 3 * (calm.gain.high - calm.gain.low)


def test_the_upper_limit_covers_the_true_gain_mostly() -> None:
    true = 80.0**-1 - 90.0**-1
    found = [
        stopping.forecast(curve(0.95, 1.0, 1.0, noise=0.004, seed=seed), BATCH)
        for seed in range(30)
    ]
    assert sum(each is not None and each.gain.high >= true for each in found) >= 24


def test_too_little_says_nothing() -> None:
    of = curve(0.95, 1.0, 1.0)
    few = Curve(of.labels[: LEAST_POINTS - 1], of.scores[: LEAST_POINTS - 1], of.scans)
    assert stopping.forecast(few, BATCH) is None
    assert stopping.forecast(curve(0.95, 1.0, 1.0, scans=LEAST_SCANS - 1), BATCH) is None
    assert stopping.forecast(stopping.curve([]), BATCH) is None
    alike = Curve(of.labels, of.scores[:, : stopping.LEAST_GROUPS - 1], of.scans)
    assert stopping.forecast(alike, BATCH) is None
    assert stopping.drafts([1.0] * (LEAST_SCANS - 1)) is None


@settings(deadline=None, max_examples=15)
@given(
    scores=st.lists(
        st.lists(st.floats(0, 1), min_size=LEAST_SCANS, max_size=LEAST_SCANS),
        min_size=LEAST_POINTS,
        max_size=8,
    ),
    batch=st.integers(1, 50),
)
def test_any_scores_give_a_gain_of_dice_and_the_same_one_again(
    scores: list[list[float]], batch: int
) -> None:
    of = Curve(np.arange(1, len(scores) + 1) * batch, np.array(scores), LEAST_SCANS)
    found = stopping.forecast(of, batch)
    assert found is not None
    assert 0 <= found.gain.low <= found.gain.high
    assert found.gain.value >= 0
    assert all(interval.value <= 1 for interval in found.band)
    assert found == stopping.forecast(of, batch)


@given(labels=st.lists(st.integers(1, 200)).map(sorted), batch=st.integers(1, 30))
def test_models_of_the_curve_are_a_batch_apart_and_none_could_be_added(
    labels: list[int], batch: int
) -> None:
    kept = [labels[place] for place in stopping.spaced(labels, batch)]
    assert all(after - before >= batch for before, after in pairwise(kept))
    assert kept[:1] == labels[:1]
    if labels:
        assert labels[-1] - kept[-1] < batch
    assert stopping.spaced([*labels, 1_000], batch)[: len(kept)] == stopping.spaced(labels, batch)


def test_models_of_deleted_labels_leave_the_curve() -> None:
    assert stopping.spaced([10, 20, 40, 60, 100, 60, 70], 10) == [0, 1, 2, 3, 6]
    assert stopping.spaced([10, 20, 100, 60, 70, 110], 10) == [0, 1, 3, 4, 5]


def test_all_models_of_a_curve_are_measured_on_the_same_scans() -> None:
    scans = range(LEAST_SCANS + 5)
    points = [
        Point(10, dict.fromkeys(scans[: LEAST_SCANS - 1], 0.1)),
        Point(20, dict.fromkeys(scans[:LEAST_SCANS], 0.5)),
        Point(30, {scan: 0.9 if scan >= LEAST_SCANS else 0.6 for scan in scans}),
    ]
    found = stopping.curve(points)
    assert (found.labels.tolist(), found.scans) == ([20, 30], LEAST_SCANS)
    np.testing.assert_allclose(found.scores.mean(axis=1), [0.5, 0.6])


def test_scans_of_a_group_count_as_one() -> None:
    scores = {scan: float(scan < 10) for scan in range(30)}
    found = stopping.curve([Point(10, scores)], {scan: int(scan < 10) for scan in range(30)})
    assert found.scores.tolist() == [[0.0, 1.0]]
    assert found.scans == 30


def test_masks_that_change_like_a_twins_are_unchanged() -> None:
    twin = np.linspace(0.8, 1.0, 30)
    same, other = (stopping.change((twin - less).tolist(), twin.tolist()) for less in (0.004, 0.02))
    assert stopping.is_unchanged(same)
    assert not stopping.is_unchanged(other)
    assert not stopping.is_unchanged(stopping.change([0.9], [0.9]))


@given(
    clusters=st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array),
    seed=st.integers(0, 9),
)
def test_a_cluster_needs_a_label_if_it_is_large(clusters: stopping.Ints, seed: int) -> None:
    labelled = np.random.default_rng(seed).random(len(clusters)) < 0.2
    waiting = stopping.unlabelled_clusters(clusters, labelled)
    for cluster in np.unique(clusters):
        share = (clusters == cluster).mean()
        expected = share >= 0.03 and not labelled[clusters == cluster].any()
        assert (cluster in waiting) == expected


@pytest.mark.parametrize(
    ("no_gain", "no_change", "good_drafts", "stops"),
    [
        (True, True, False, True),
        (True, False, False, False),
        (False, True, False, False),
        (False, False, True, True),
        (False, False, False, False),
    ],
)
def test_gain_and_change_together_or_drafts_alone_stop(
    no_gain: bool, no_change: bool, good_drafts: bool, stops: bool
) -> None:
    signs = {"no_gain": no_gain, "no_change": no_change, "good_drafts": good_drafts}
    assert stopping.can_stop(**signs, unlabelled=0) == stops
    assert not stopping.can_stop(**signs, unlabelled=1)
