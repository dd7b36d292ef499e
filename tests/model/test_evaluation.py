from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model import metrics
from model.evaluation import (
    MAIN,
    METRICS,
    OTHERS,
    Masks,
    Metric,
    dice,
    dice_of_scans,
    drawn,
    hd95,
    mean,
    of_labels,
    scan_dice,
    where_drawn,
)

shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
pairs = shapes.flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)
few = settings(max_examples=60)


def mask(*rows: str) -> Masks:
    return np.array([[cell == "#" for cell in row] for row in rows])


EMPTY = mask("....", "....", "....")
LEFT = mask("##..", "##..", "....")
SHIFTED = mask(".##.", ".##.", "....")
FAR = mask("...#", "....", "....")
DOT = mask("#...", "....", "....")


@pytest.mark.parametrize(
    ("pred", "true", "expected"),
    [
        (EMPTY, EMPTY, 1.0),
        (EMPTY, LEFT, 0.0),
        (LEFT, EMPTY, 0.0),
        (LEFT, LEFT, 1.0),
        (LEFT, SHIFTED, 0.5),
        (DOT, LEFT, 0.4),
        (DOT, FAR, 0.0),
    ],
)
def test_dice_of_known_masks(pred: Masks, true: Masks, expected: float) -> None:
    assert dice(pred, true) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("pred", "true", "spacing", "expected"),
    [
        (EMPTY, EMPTY, None, 0.0),
        (EMPTY, LEFT, None, 5.0),
        (LEFT, EMPTY, (2.0, 1.0), np.hypot(6, 4)),
        (LEFT, LEFT, None, 0.0),
        (LEFT, SHIFTED, None, 1.0),
        (LEFT, SHIFTED, (1.0, 3.0), 3.0),
        (DOT, FAR, None, 3.0),
        (DOT, FAR, (9.0, 0.5), 1.5),
    ],
)
def test_hd95_of_known_masks(
    pred: Masks, true: Masks, spacing: tuple[float, float] | None, expected: float
) -> None:
    assert hd95(pred, true, spacing) == pytest.approx([expected])


def test_each_class_is_measured_by_itself() -> None:
    pred, true = np.stack([LEFT, EMPTY, DOT]), np.stack([LEFT, EMPTY, FAR])

    assert dice(pred, true) == pytest.approx([1.0, 1.0, 0.0])
    assert hd95(pred, true) == pytest.approx([0.0, 0.0, 3.0])


def test_hd95_forgives_a_few_stray_pixels() -> None:
    true = np.zeros((60, 60), dtype=np.bool_)
    true[10:50, 10:50] = True
    pred = true.copy()
    pred[0, 0] = True

    assert hd95(pred, true) == pytest.approx([0.0])


@few
@given(pairs)
def test_both_measures_are_symmetric_and_bounded(pair: tuple[Masks, Masks]) -> None:
    pred, true = pair
    diagonal = np.linalg.norm(pred.shape[1:])

    assert dice(pred, true) == pytest.approx(dice(true, pred))
    assert hd95(pred, true) == pytest.approx(hd95(true, pred))
    assert np.all((dice(pred, true) >= 0) & (dice(pred, true) <= 1))
    assert np.all((hd95(pred, true) >= 0) & (hd95(pred, true) <= diagonal))


@few
@given(pairs)
def test_a_mask_agrees_fully_with_itself(pair: tuple[Masks, Masks]) -> None:
    masks, _ = pair

    assert np.all(dice(masks, masks) == 1)
    assert np.all(hd95(masks, masks) == 0)


@few
@given(pairs, st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)))
def test_both_measures_agree_with_counting_by_hand(
    pair: tuple[Masks, Masks], spacing: tuple[float, float]
) -> None:
    pred, true = pair

    assert dice(pred, true) == pytest.approx([naive_dice(p, t) for p, t in zip(*pair, strict=True)])
    assert hd95(pred, true, spacing) == pytest.approx(
        [naive_hd95(p, t, spacing) for p, t in zip(*pair, strict=True)]
    )


def naive_dice(pred: Masks, true: Masks) -> float:
    ours, theirs = set(zip(*pred.nonzero(), strict=True)), set(zip(*true.nonzero(), strict=True))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours | theirs else 1.0


def naive_hd95(pred: Masks, true: Masks, spacing: tuple[float, float]) -> float:
    ours, theirs = naive_outline(pred), naive_outline(true)
    if not ours or not theirs:
        return float(np.hypot(*np.multiply(pred.shape, spacing))) if ours or theirs else 0.0
    return max(naive_directed(ours, theirs, spacing), naive_directed(theirs, ours, spacing))


def naive_outline(plane: Masks) -> list[tuple[int, int]]:
    padded = np.pad(plane, 1)
    return [
        (row, column)
        for row, column in np.argwhere(plane)
        if not all(
            padded[row + 1 + down, column + 1 + right]
            for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0))
        )
    ]


def naive_directed(
    start: list[tuple[int, int]], goal: list[tuple[int, int]], spacing: tuple[float, float]
) -> float:
    nearest = [
        min(np.hypot((a - c) * spacing[0], (b - d) * spacing[1]) for c, d in goal) for a, b in start
    ]
    return float(np.percentile(nearest, 95))


@pytest.mark.parametrize("measure", [dice, hd95])
@pytest.mark.parametrize(
    ("pred", "true", "message"),
    [
        (LEFT, LEFT[:2], "same shape"),
        (LEFT[0], LEFT[0], "same shape"),
        (LEFT.astype(np.float32), LEFT, "expected bool"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(
    measure: object, pred: Masks, true: Masks, message: str
) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=message):
        measure(pred, true)


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0,), (1.0, float("nan")), (1.0, -2.0)])
def test_a_spacing_that_is_no_pixel_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing"):
        hd95(LEFT, LEFT, spacing)


def test_a_class_is_drawn_if_either_mask_has_any_of_it() -> None:
    pred, true = np.zeros((4, 3, 3), bool), np.zeros((4, 3, 3), bool)
    pred[0, 0, 0] = true[1, 2, 2] = pred[2, 1, 1] = true[2, 0, 0] = True
    np.testing.assert_array_equal(drawn(pred, true), [True, True, True, False])
    np.testing.assert_array_equal(drawn(pred[3], true[3]), [False])


def test_the_dice_of_a_scan_is_the_mean_over_the_classes_that_are_there() -> None:
    missed = np.stack([EMPTY] * 8)
    one_drawn = np.stack([LEFT] + [EMPTY] * 7)

    assert scan_dice(missed, one_drawn) == 0
    assert scan_dice(one_drawn, missed) == 0
    assert scan_dice(missed, missed) == 1
    assert scan_dice(np.stack([LEFT, DOT, EMPTY]), np.stack([SHIFTED, EMPTY, EMPTY])) == 0.25


@few
@given(pairs)
def test_classes_that_nobody_drew_change_no_scan(pair: tuple[Masks, Masks]) -> None:
    pred, true = pair
    empty = np.zeros_like(pred)

    wider = scan_dice(np.concatenate([pred, empty]), np.concatenate([true, empty]))

    assert wider == pytest.approx(scan_dice(pred, true))
    scores = where_drawn(dice(pred, true), pred, true)
    assert np.isnan(scores).tolist() == (~drawn(pred, true)).tolist()


def test_a_mean_leaves_out_what_was_not_scored_along_either_axis() -> None:
    scores = [[0.5, np.nan], [0.7, 0.1], [np.nan, np.nan]]

    np.testing.assert_allclose(mean(scores, empty=1.0), [0.5, 0.4, 1.0])
    np.testing.assert_allclose(mean(scores, empty=0.0, axis=0), [0.6, 0.1])
    assert mean([], empty=0.0) == 0


# -- the table of metrics -------------------------------------------------------------------------

EVERY_METRIC = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@EVERY_METRIC
def test_a_metric_scores_two_empty_masks_as_its_entry_says(metric: Metric) -> None:
    assert metric.function(EMPTY, EMPTY, None) == pytest.approx([metric.empty])
    assert metric.of_scan([EMPTY, EMPTY], [EMPTY, EMPTY]) == metric.empty
    assert np.isnan(metric.of_labels(EMPTY, EMPTY)).all()


@EVERY_METRIC
def test_a_metric_prefers_the_nearer_mask_in_the_direction_of_its_entry(metric: Metric) -> None:
    near, far = (float(metric.function(pred, LEFT, None)[0]) for pred in (SHIFTED, FAR))

    assert metric.better(near, far)
    assert not metric.better(far, near)
    assert not metric.better(near, near)
    assert metric.worst([near, far]) == far


@EVERY_METRIC
def test_only_a_metric_with_a_unit_follows_the_size_of_a_pixel(metric: Metric) -> None:
    near, twice = (metric.function(SHIFTED, LEFT, spacing)[0] for spacing in (None, (2.0, 2.0)))

    assert twice == pytest.approx(2 * near if metric.unit else near)


@EVERY_METRIC
def test_a_heading_tells_the_unit(metric: Metric) -> None:
    assert metric.heading() == metric.title + (f" ({metric.unit})" if metric.unit else "")
    assert metric.heading("mm") == metric.title + (" (mm)" if metric.unit else "")


@few
@given(pairs)
def test_the_scores_of_a_scan_are_those_of_each_metric(pair: tuple[Masks, Masks]) -> None:
    pred, true = pair
    scores = of_labels(pred, true, (2.0, 1.0))

    assert list(scores) == list(METRICS)
    np.testing.assert_array_equal(scores["dice"], where_drawn(dice(pred, true), pred, true))
    expected = where_drawn(hd95(pred, true, (2.0, 1.0)), pred, true)
    np.testing.assert_array_equal(scores["hd95"], expected)
    assert METRICS["dice"].of_scan(pred, true) == scan_dice(pred, true)


def test_every_metric_has_one_name_and_dice_is_the_main_one() -> None:
    assert [metric.name for metric in METRICS.values()] == list(METRICS)
    assert MAIN.name == "dice"
    assert [MAIN, *OTHERS] == list(METRICS.values())


def test_dice_and_hd95_stay_importable_from_the_contract_s_module() -> None:
    assert (metrics.dice, metrics.hd95) == (dice, hd95)


# -- slabs ----------------------------------------------------------------------------------------


@given(pairs)
@few
def test_a_slab_of_one_page_scores_as_a_scan(pair: tuple[Masks, Masks]) -> None:
    for metric in METRICS.values():
        np.testing.assert_array_equal(
            metric.of_pages([pair[0]], [pair[1]]), metric.of_labels(*pair)
        )


@given(pairs)
@few
def test_a_rightly_empty_page_changes_no_score_of_a_slab(pair: tuple[Masks, Masks]) -> None:
    pred, true = pair
    nothing = np.zeros_like(pred)
    for metric in METRICS.values():
        np.testing.assert_allclose(
            metric.of_pages([pred, nothing], [true, nothing]), metric.of_labels(pred, true)
        )


def test_the_dice_of_a_slab_is_that_of_a_small_volume() -> None:
    pred, true = [LEFT[None], DOT[None]], [SHIFTED[None], LEFT[None]]
    stacks = np.stack(pred), np.stack(true)
    found = MAIN.of_pages(pred, true)
    assert found == pytest.approx(MAIN.of_volume(*stacks, [0, 1], (1.0, 1.0, 1.0)))
    assert found == pytest.approx([2 * 3 / 13])
    far = METRICS["hd95"].of_pages(pred, true)
    each = [METRICS["hd95"].of_labels(*pair) for pair in zip(pred, true, strict=True)]
    assert far == pytest.approx(np.mean(each, axis=0)), "a distance lies within a page"


def test_pages_count_for_their_scan() -> None:
    pred = [LEFT[None], EMPTY[None], EMPTY[None], DOT[None]]
    true = [LEFT[None], DOT[None], EMPTY[None], DOT[None]]
    found = dice_of_scans(iter(pred), true, [7, 7, 3, 4])
    assert found == pytest.approx({7: 2 * 4 / 9, 3: 1.0, 4: 1.0})
