from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_erosion, distance_transform_edt

from model import evaluation, volumes
from model.volumes import Scores, Spacing, Stack

few = settings(max_examples=60, deadline=None)
sides = st.tuples(*[st.integers(1, 5)] * 4)
pairs = sides.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.bool_, shape)] * 2))
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 8.0])] * 3)
MM: Spacing = (8.0, 1.5, 1.5)


def by_distance_transform(pred: Any, true: Any, spacing: Spacing) -> float:
    """HD95 of one class (n, h, w) of a volume without gaps, by another way."""

    def outline(mask: Any) -> Any:
        padded = np.pad(mask, ((1, 1), (0, 0), (0, 0)), mode="edge")
        return mask & ~binary_erosion(padded)[1:-1]

    found, wanted = outline(pred), outline(true)
    there = distance_transform_edt(~wanted, sampling=spacing)[found]
    back = distance_transform_edt(~found, sampling=spacing)[wanted]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


@few
@given(pairs, spacings)
def test_without_gaps_the_distance_is_that_of_distance_transforms(
    pair: tuple[Stack, Stack], spacing: Spacing
) -> None:
    pred, true = pair
    found = volumes.hd95(pred, true, range(len(pred)), spacing)
    for number, score in enumerate(found):
        a, b = pred[:, number], true[:, number]
        if a.any() and b.any():
            assert score == pytest.approx(by_distance_transform(a, b, spacing))


@few
@given(pairs)
def test_a_volume_of_one_slice_scores_like_the_slice(pair: tuple[Stack, Stack]) -> None:
    pred, true = pair[0][:1], pair[1][:1]
    assert volumes.dice(pred, true, [7], MM) == pytest.approx(evaluation.dice(pred[0], true[0]))
    both = pred[0].any(axis=(1, 2)) & true[0].any(axis=(1, 2))
    flat = evaluation.hd95(pred[0], true[0], MM[1:])
    assert volumes.hd95(pred, true, [7], MM)[both] == pytest.approx(flat[both])


@few
@given(pairs, spacings, st.data())
def test_scores_are_symmetric_and_perfect_for_equal_masks(
    pair: tuple[Stack, Stack], spacing: Spacing, data: st.DataObject
) -> None:
    pred, true = pair
    places = sorted(data.draw(st.sets(st.integers(0, 30), min_size=len(pred), max_size=len(pred))))
    for measure, best in ((volumes.dice, 1.0), (volumes.hd95, 0.0)):
        there = measure(pred, true, places, spacing)
        assert there == pytest.approx(measure(true, pred, places, spacing))
        assert measure(true, true, places, spacing) == pytest.approx(np.full(pred.shape[1], best))


@few
@given(pairs, st.integers(0, 20))
def test_where_a_volume_begins_does_not_count(pair: tuple[Stack, Stack], shift: int) -> None:
    pred, true = pair
    places = np.arange(len(pred)) * 2
    np.testing.assert_allclose(
        volumes.hd95(pred, true, places.tolist(), MM),
        volumes.hd95(pred, true, (places + shift).tolist(), MM),
    )


def a_stack(*rows: str) -> Stack:
    """Slices of one row of pixels, of one class."""
    return np.array([[[[cell == "#" for cell in row]]] for row in rows])


def test_dice_counts_voxels_of_all_slices_and_not_means_of_slices() -> None:
    pred, true = a_stack("####", "#..."), a_stack("####", ".#..")
    assert volumes.dice(pred, true, [0, 1], MM) == pytest.approx([8 / 10])


def test_distances_between_slices_are_in_mm() -> None:
    assert volumes.hd95(a_stack("#", "."), a_stack(".", "#"), [0, 1], MM) == pytest.approx([8.0])
    assert volumes.hd95(a_stack("#", "."), a_stack(".", "#"), [0, 3], MM) == pytest.approx([24.0])


def thick(first: int) -> Stack:
    """Three slices of 9 x 9 with a block of 7 x 7; slices before `first` are empty."""
    stack = np.zeros((3, 1, 9, 9), bool)
    stack[first:, :, 1:8, 1:8] = True
    return stack


def test_no_outline_runs_along_a_slice_without_labels() -> None:
    """Beside a gap nothing is known of the next slice, so a slice has its own outline only."""
    whole, late = thick(0), thick(1)
    outlined: Scores = volumes._outline(whole[:, 0], np.array([0, 2, 4]), np.ones(3))
    assert len(outlined) == 3 * 24, "the rings of three slices"
    closed = volumes._outline(late[:, 0], np.array([0, 1, 2]), np.ones(3))
    assert len(closed) == 49 + 24, "a lid towards the empty slice, and a ring"


def test_a_class_that_only_one_side_has_is_the_diagonal_away() -> None:
    pred, true = np.zeros((2, 1, 3, 4), bool), np.ones((2, 1, 3, 4), bool)
    diagonal = np.linalg.norm([5 * 8.0, 3 * 1.5, 4 * 1.5])
    assert volumes.hd95(pred, true, [2, 6], MM) == pytest.approx([diagonal])


def test_the_table_of_metrics_leaves_out_classes_that_are_in_neither() -> None:
    pred, true = np.zeros((2, 2, 3, 3), bool), np.zeros((2, 2, 3, 3), bool)
    pred[:, 0], true[:, 0] = True, True
    found = evaluation.of_volume(pred, true, [0, 1], MM)
    assert found.keys() == evaluation.METRICS.keys()
    assert [found["dice"][0], found["hd95"][0]] == [1.0, 0.0]
    assert np.isnan([found["dice"][1], found["hd95"][1]]).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pred": np.zeros((2, 1, 3, 4), bool)}, "of the same shape"),
        ({"places": [0, 1, 2]}, "for 3 slices"),
        ({"true": np.zeros((2, 1, 3, 3))}, "expected bool"),
        ({"places": [1, 1]}, "rising"),
        ({"spacing": (1.0, 0.0, 1.0)}, "above 0"),
    ],
)
def test_wrong_arguments_are_named(changed: dict[str, Any], said: str) -> None:
    empty = np.zeros((2, 1, 3, 3), bool)
    arguments: dict[str, Any] = {"pred": empty, "true": empty, "places": [0, 1], "spacing": MM}
    for measure in (volumes.dice, volumes.hd95):
        with pytest.raises(ValueError, match=said):
            measure(**arguments | changed)
