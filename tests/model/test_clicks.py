from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from model.clicks import Box, Click, geodesic, refine, walker

Array = np.ndarray[Any, Any]
SIDE = 64


def disc(row: float, column: float, radius: float) -> Array:
    down, across = np.ogrid[:SIDE, :SIDE]
    inside: Array = np.hypot(down - row, across - column) <= radius
    return inside


TRUTH = disc(32, 32, 14)
IMAGE = (0.2 + 0.6 * TRUTH).astype(np.float32)


def draft_of(mask: Array) -> Array:
    """Return probabilities as a network gives them: sure inside, unsure at the outline."""
    soft: Array = np.clip(ndimage.gaussian_filter(mask.astype(np.float32), 2), 0.01, 0.99)
    return soft


def dice(mask: Array, truth: Array) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def test_a_click_on_a_missed_part_adds_it() -> None:
    draft = draft_of(TRUTH & (np.arange(SIDE) < 36))
    refined = refine(IMAGE, draft, [Click(32, 41)])
    assert dice(draft > 0.5, TRUTH) < 0.8
    assert dice(refined > 0.5, TRUTH) > 0.9


def test_a_negative_click_takes_away_what_does_not_belong() -> None:
    draft = draft_of(TRUTH | disc(32, 52, 7))
    refined = refine(IMAGE, draft, [Click(32, 53, positive=False)])
    assert dice(refined > 0.5, TRUTH) > max(dice(draft > 0.5, TRUTH), 0.93)


clicks = st.builds(
    Click, st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), positive=st.booleans()
)


drafts = st.sampled_from([TRUTH, np.zeros_like(TRUTH), np.ones_like(TRUTH)]).map(draft_of)


@given(
    drafts, st.lists(clicks, min_size=1, max_size=4, unique_by=lambda one: (one.row, one.column))
)
@settings(max_examples=40, deadline=None)
def test_every_clicked_pixel_gets_its_class_and_far_pixels_stay(
    draft: Array, given: list[Click]
) -> None:
    kept = draft.copy()
    refined = refine(IMAGE, draft, given)
    np.testing.assert_array_equal(draft, kept)
    assert refined.dtype == np.float32
    assert ((refined >= 0) & (refined <= 1)).all()
    far = np.ones((SIDE, SIDE), bool)
    reach = round(geodesic.REACH * SIDE)
    for click in given:
        assert (refined[click.row, click.column] > 0.5) == click.positive
        rows = slice(max(click.row - reach, 0), click.row + reach + 1)
        far[rows, max(click.column - reach, 0) : click.column + reach + 1] = False
    np.testing.assert_array_equal(refined[far], draft[far])


@given(drafts, clicks)
@settings(max_examples=40, deadline=None)
def test_a_click_only_adds_pixels_to_its_class(draft: Array, click: Click) -> None:
    changed = (refine(IMAGE, draft, [click]) > 0.5) != (draft > 0.5)
    assert (changed <= ((draft > 0.5) != click.positive)).all()


def test_a_click_that_says_what_the_draft_says_changes_that_pixel_at_most() -> None:
    draft = draft_of(TRUTH)
    refined = refine(IMAGE, draft, [Click(32, 32)])
    np.testing.assert_array_equal(refined > 0.5, draft > 0.5)


def test_an_edge_of_the_picture_stops_a_correction() -> None:
    nothing = np.full((SIDE, SIDE), 0.05, np.float32)
    edged = geodesic.corrected(IMAGE, nothing, [Click(32, 42)]) > 0.5
    flat = geodesic.corrected(np.zeros_like(IMAGE), nothing, [Click(32, 42)]) > 0.5
    assert edged.mean() > 0
    assert (edged & ~TRUTH).sum() / edged.sum() < (flat & ~TRUTH).sum() / flat.sum()


@pytest.mark.parametrize("colours", [1, 3])
def test_without_a_draft_the_picture_alone_decides(colours: int) -> None:
    image = IMAGE if colours == 1 else np.repeat(IMAGE[..., None], 3, axis=2)
    found = refine(image, None, [Click(32, 32), Click(10, 32, positive=False)])
    assert dice(found > 0.5, TRUTH) > 0.95
    assert not refine(image, None, [Click(3, 3, positive=False)]).any()


@pytest.mark.parametrize("with_draft", [True, False])
def test_a_box_holds_the_structure_inside_it_and_changes_nothing_outside(with_draft: bool) -> None:
    other = disc(8, 8, 4)
    draft = draft_of(other) if with_draft else None
    found = refine(IMAGE, draft, [Box(14, 14, 51, 51)]) > 0.5
    assert dice(found & ~other, TRUTH) > 0.95
    assert (found & other).any() == with_draft


def test_the_walker_with_a_prior_keeps_the_draft_where_nobody_clicked() -> None:
    draft = draft_of(TRUTH)
    np.testing.assert_array_equal(walker.corrected(IMAGE, draft, []), draft)
    refined = walker.corrected(IMAGE, draft, [Click(2, 2, positive=False)])
    assert dice(refined > 0.5, draft > 0.5) > 0.98


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3)])
@pytest.mark.parametrize("drafted", [True, False])
def test_tiny_images_are_answered(shape: tuple[int, int], drafted: bool) -> None:
    image = np.zeros(shape, np.float32)
    draft = np.full(shape, 0.3, np.float32) if drafted else None
    prompts: list[Click | Box] = [Click(0, 0), Box(0, 0, 1, 1), Box(0, 0, 0, 0)]
    found = refine(image, draft, prompts)
    assert found.shape == shape
    assert np.isfinite(found).all()


def test_prompts_that_do_not_fit_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"row=64.* outside of an image of 64 x 64"):
        refine(IMAGE, None, [Click(64, 0)])
    with pytest.raises(ValueError, match="the draft has shape"):
        refine(IMAGE, np.zeros((2, 2), np.float32), [])
